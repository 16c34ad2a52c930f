package android.graphics;

public class Canvas {
    public native void drawBitmap(Bitmap bitmap, Rect source, RectF target, Paint paint);
    public native void drawPath(Path path, Paint paint);
    public native void drawCircle(float x, float y, float radius, Paint paint);
    public native void drawRect(float left, float top, float right, float bottom, Paint paint);
    public native void drawText(String text, float x, float y, Paint paint);
}
