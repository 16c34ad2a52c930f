package android.graphics;

public class ImageDecoder {
    public static final int ALLOCATOR_SOFTWARE = 1;
    public static native Source createSource(android.content.ContentResolver resolver, android.net.Uri uri);
    public static native Bitmap decodeBitmap(Source source, OnHeaderDecodedListener listener) throws java.io.IOException;
    public native int getAllocator();
    public native void setAllocator(int allocator);
    public static class Source {}
    public static class ImageInfo {}
    public interface OnHeaderDecodedListener {
        void onHeaderDecoded(ImageDecoder decoder, ImageInfo info, Source source);
    }
}
