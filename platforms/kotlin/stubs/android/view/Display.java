package android.view;

public class Display {
    public native int getRotation();
}
