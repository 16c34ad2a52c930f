package ai.onnxruntime;

import java.util.Map;
import java.util.Optional;
import java.util.Set;

public class OrtSession implements AutoCloseable {
    public Set<String> getInputNames() {
        return null;
    }

    public Set<String> getOutputNames() {
        return null;
    }

    public Result run(Map<String, ? extends OnnxTensor> inputs, Set<String> outputs) throws OrtException {
        return null;
    }

    @Override
    public void close() throws OrtException {}

    public static class SessionOptions implements AutoCloseable {
        public void setIntraOpNumThreads(int threads) throws OrtException {}

        @Override
        public void close() {}
    }

    public static class Result implements AutoCloseable {
        public Optional<OnnxValue> get(String name) {
            return null;
        }

        @Override
        public void close() {}
    }
}
