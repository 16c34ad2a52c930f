package android.widget;

public class Switch extends CompoundButton {
    public Switch(android.content.Context context, android.util.AttributeSet attributes) { super(context, attributes); }
}
