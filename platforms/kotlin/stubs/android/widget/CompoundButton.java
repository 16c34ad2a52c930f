package android.widget;

public class CompoundButton extends Button {
    public CompoundButton(android.content.Context context, android.util.AttributeSet attributes) { super(context, attributes); }
    public native boolean isChecked();
    public native void setChecked(boolean isChecked);
    public native void setOnCheckedChangeListener(OnCheckedChangeListener listener);
    public interface OnCheckedChangeListener {
        void onCheckedChanged(CompoundButton button, boolean isChecked);
    }
}
