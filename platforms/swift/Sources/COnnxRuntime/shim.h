/* ONNX Runtime's C API, where Debian, Homebrew and its own packages put it. */
#if __has_include(<onnxruntime_c_api.h>)
#include <onnxruntime_c_api.h>
#else
#include <onnxruntime/onnxruntime_c_api.h>
#endif
