package android.widget;

public class TextView extends android.view.View {
    public TextView(android.content.Context context, android.util.AttributeSet attributes) { super(context, attributes); }
    public native CharSequence getText();
    public native void setText(CharSequence text);
    public native void setText(int id);
    public native void setHint(int id);
    public native void setOnEditorActionListener(OnEditorActionListener listener);
    public interface OnEditorActionListener {
        boolean onEditorAction(TextView view, int action, android.view.KeyEvent event);
    }
}
