package android.widget;

public class ProgressBar extends android.view.View {
    public ProgressBar(android.content.Context context, android.util.AttributeSet attributes) { super(context, attributes); }
    public native int getProgress();
    public native void setProgress(int progress);
}
