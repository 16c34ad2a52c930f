package android.app;

public class Activity extends android.content.Context {
    protected void onCreate(android.os.Bundle state) {}
    protected void onStop() {}
    protected void onDestroy() {}
    public void onConfigurationChanged(android.content.res.Configuration configuration) {}
    public void setContentView(int layout) {}
    public native <T extends android.view.View> T findViewById(int id);
    public native CharSequence getTitle();
    public native void setTitle(CharSequence title);
}
