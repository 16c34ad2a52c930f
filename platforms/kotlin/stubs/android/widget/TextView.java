package android.widget;

public class TextView extends android.view.View {
    public TextView(android.content.Context context, android.util.AttributeSet attributes) { super(context, attributes); }
    public native CharSequence getText();
    public native void setText(CharSequence text);
    public native void setText(int id);
}
