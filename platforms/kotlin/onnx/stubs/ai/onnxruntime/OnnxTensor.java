package ai.onnxruntime;

import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.nio.LongBuffer;

public class OnnxTensor implements OnnxValue {
    public static OnnxTensor createTensor(OrtEnvironment environment, FloatBuffer data, long[] shape) throws OrtException {
        return null;
    }

    public static OnnxTensor createTensor(OrtEnvironment environment, IntBuffer data, long[] shape) throws OrtException {
        return null;
    }

    public static OnnxTensor createTensor(OrtEnvironment environment, LongBuffer data, long[] shape) throws OrtException {
        return null;
    }

    public FloatBuffer getFloatBuffer() {
        return null;
    }

    public TensorInfo getInfo() {
        return null;
    }

    @Override
    public void close() {}
}
