package androidx.activity.result;

public class PickVisualMediaRequest {
    public static final class Builder {
        public native Builder setMediaType(androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia.VisualMediaType type);
        public native PickVisualMediaRequest build();
    }
}
