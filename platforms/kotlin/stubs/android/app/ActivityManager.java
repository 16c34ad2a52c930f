package android.app;

public abstract class ActivityManager {
    public abstract void getMemoryInfo(MemoryInfo info);
    public static class MemoryInfo {
        public long totalMem;
    }
}
