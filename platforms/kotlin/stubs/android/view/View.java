package android.view;

public class View {
    public static final int VISIBLE = 0;
    public static final int GONE = 8;
    public View(android.content.Context context, android.util.AttributeSet attributes) {}
    protected void onDraw(android.graphics.Canvas canvas) {}
    public native void invalidate();
    public native int getWidth();
    public native int getHeight();
    public native android.content.res.Resources getResources();
    public native Display getDisplay();
    public native boolean isEnabled();
    public native void setEnabled(boolean enabled);
    public native int getVisibility();
    public native void setVisibility(int visibility);
    public native void setOnClickListener(OnClickListener listener);
    public interface OnClickListener {
        void onClick(View view);
    }
}
