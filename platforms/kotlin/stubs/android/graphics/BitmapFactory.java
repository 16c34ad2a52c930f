package android.graphics;

public class BitmapFactory {
    public static native Bitmap decodeFile(String path);
}
