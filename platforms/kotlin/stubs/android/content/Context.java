package android.content;

public abstract class Context {
    public static final String ACTIVITY_SERVICE = "activity";
    public static final String POWER_SERVICE = "power";
    public native android.content.res.AssetManager getAssets();
    public native android.content.res.Resources getResources();
    public native android.content.pm.PackageManager getPackageManager();
    public native String getPackageName();
    public native ContentResolver getContentResolver();
    public native java.io.File getFilesDir();
    public native Object getSystemService(String name);
    public native java.util.concurrent.Executor getMainExecutor();
    public native int checkSelfPermission(String permission);
    public native String getString(int id);
}
