package android.os;

public class Build {
    public static final String MANUFACTURER = "";
    public static final String MODEL = "";
    public static class VERSION {
        public static final String RELEASE = new String();
        public static final int SDK_INT = Integer.parseInt("36");
    }
    public static class VERSION_CODES {
        public static final int Q = 29;
    }
}
