package androidx.camera.view;

public final class PreviewView extends android.view.View {
    public enum ScaleType { FILL_CENTER, FIT_CENTER }
    public PreviewView(android.content.Context context, android.util.AttributeSet attributes) { super(context, attributes); }
    public native androidx.camera.core.Preview.SurfaceProvider getSurfaceProvider();
    public native ScaleType getScaleType();
    public native void setScaleType(ScaleType type);
}
