package android.content.res;

public abstract class Resources {
    public abstract android.util.DisplayMetrics getDisplayMetrics();
}
