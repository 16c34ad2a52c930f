package android.widget;

public class Spinner extends android.view.View {
    public Spinner(android.content.Context context, android.util.AttributeSet attributes) { super(context, attributes); }
    public native SpinnerAdapter getAdapter();
    public native void setAdapter(SpinnerAdapter adapter);
    public native int getSelectedItemPosition();
}
