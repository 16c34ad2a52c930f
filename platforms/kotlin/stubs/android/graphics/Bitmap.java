package android.graphics;

public class Bitmap {
    public enum Config { ARGB_8888, RGB_565, HARDWARE }
    public static native Bitmap createBitmap(int[] pixels, int width, int height, Config config);
    public native Bitmap copy(Config config, boolean mutable);
    public native void copyPixelsToBuffer(java.nio.Buffer buffer);
    public native Config getConfig();
    public native int getRowBytes();
    public native int getWidth();
    public native int getHeight();
}
