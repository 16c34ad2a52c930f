package androidx.camera.core;

public final class Preview extends UseCase {
    public native SurfaceProvider getSurfaceProvider();
    public native void setSurfaceProvider(SurfaceProvider provider);
    public native int getTargetRotation();
    public native void setTargetRotation(int rotation);
    public interface SurfaceProvider {}
    public static final class Builder {
        public native Builder setResolutionSelector(androidx.camera.core.resolutionselector.ResolutionSelector selector);
        public native Preview build();
    }
}
