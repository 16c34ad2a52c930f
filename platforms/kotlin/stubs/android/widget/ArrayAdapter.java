package android.widget;

public class ArrayAdapter<T> implements SpinnerAdapter {
    public ArrayAdapter(android.content.Context context, int layout, java.util.List<T> items) {}
}
