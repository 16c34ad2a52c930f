package android.widget;

public class ImageView extends android.view.View {
    public ImageView(android.content.Context context, android.util.AttributeSet attributes) { super(context, attributes); }
    public native void setImageBitmap(android.graphics.Bitmap bitmap);
}
