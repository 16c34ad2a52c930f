import COnnxRuntime
import EdgeKit
import Foundation

/// ONNX Runtime through its C API: bundles of the targets `onnx` and `web`.
public struct ONNXRuntime: Engine {
    /// Threads for one inference; 0 for the engine's own choice.
    public var threads: Int

    public var opens: [String] { ["onnxruntime", "web"] }
    public var target: String { "onnx" }

    public init(threads: Int = 0) { self.threads = threads }

    public func open(_ graph: Graph, of bundle: EdgeBundle) async throws -> any Session {
        try ONNXSession(graph, bundle, threads: threads)
    }
}

/// The engine's functions and its one environment, for the whole process.
private final class Runtime: @unchecked Sendable {
    let api: OrtApi
    let environment: OpaquePointer
    let version: String

    /// Nil where the library is older than the header that this was built with.
    static let shared: Result<Runtime, EdgeKitError> = Result { () throws(EdgeKitError) in try Runtime() }

    private init() throws(EdgeKitError) {
        guard let base = OrtGetApiBase(), let found = base.pointee.GetApi(UInt32(ORT_API_VERSION)) else {
            throw .engine("the ONNX Runtime that is installed is older than version 1.\(ORT_API_VERSION), which this was built with; update it")
        }
        api = found.pointee
        version = base.pointee.GetVersionString().map { String(cString: $0) } ?? "unknown"
        var environment: OpaquePointer?
        try check(api, api.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edgekit", &environment))
        guard let environment else { throw .engine("ONNX Runtime gave no environment") }
        self.environment = environment
        try check(api, api.DisableTelemetryEvents(environment))
    }
}

/// Throw what a call of the engine complains of.
private func check(_ api: OrtApi, _ status: OrtStatusPtr?) throws(EdgeKitError) {
    guard let status else { return }
    defer { api.ReleaseStatus(status) }
    let reason = api.GetErrorMessage(status).map { String(cString: $0) } ?? "no reason given"
    throw .engine("ONNX Runtime: \(reason)")
}

/// One ONNX file, opened. Everything that touches the engine's pointers happens on `queue`, which is why this may be
/// called Sendable.
private final class ONNXSession: Session, @unchecked Sendable {
    let placement: Placement
    private let runtime: Runtime
    private let graph: Graph
    private let queue = DispatchQueue(label: "edgekit.onnxruntime")
    private var session: OpaquePointer?

    init(_ graph: Graph, _ bundle: EdgeBundle, threads: Int) throws {
        runtime = try Runtime.shared.get()
        self.graph = graph
        let api = runtime.api
        let file = bundle.url(of: graph.files[0])
        placement = Placement(unit: "cpu", engine: "onnxruntime \(runtime.version)", reason: "ONNX Runtime's CPU provider")
        var options: OpaquePointer?
        try check(api, api.CreateSessionOptions(&options))
        defer { api.ReleaseSessionOptions(options) }
        try check(api, api.SetIntraOpNumThreads(options, Int32(clamping: threads)))
        try check(api, api.SetSessionLogSeverityLevel(options, 3))
        do throws(EdgeKitError) {
            try check(api, api.CreateSession(runtime.environment, file.path, options, &session))
        } catch {
            throw EdgeKitError.engine("\(file.path): cannot be opened: \(error.message)")
        }
        let inputs = try names(api.SessionGetInputCount, api.SessionGetInputName)
        let outputs = try names(api.SessionGetOutputCount, api.SessionGetOutputName)
        for (what, found, wanted) in [("input", inputs, graph.inputs), ("output", outputs, graph.outputs)] {
            for one in wanted where !found.contains(one.name) {
                throw EdgeKitError.engine("\(file.path): has no \(what) '\(one.name)', only \(found.joined(separator: ", ")); convert again")
            }
        }
    }

    deinit {
        if let session { runtime.api.ReleaseSession(session) }
    }

    private typealias Count = @convention(c) (OpaquePointer?, UnsafeMutablePointer<Int>?) -> OrtStatusPtr?
    private typealias Name = @convention(c) (
        OpaquePointer?, Int, UnsafeMutablePointer<OrtAllocator>?, UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
    ) -> OrtStatusPtr?

    private func names(_ count: Count, _ name: Name) throws -> [String] {
        let api = runtime.api
        var (total, allocator) = (0, UnsafeMutablePointer<OrtAllocator>?.none)
        try check(api, count(session, &total))
        try check(api, api.GetAllocatorWithDefaultOptions(&allocator))
        return try (0..<total).map { place in
            var text: UnsafeMutablePointer<CChar>?
            try check(api, name(session, place, allocator, &text))
            guard let text else { return "" }
            defer { _ = api.AllocatorFree(allocator, text) }
            return String(cString: text)
        }
    }

    func run(_ input: Tensor) async throws -> [Tensor] {
        let options = try RunOptions(runtime)
        let given = graph.inputs[0].layout == .nhwc ? input.channelsLast : input
        do {
            return try await withTaskCancellationHandler {
                try await withCheckedThrowingContinuation { continuation in
                    queue.async { continuation.resume(with: Result { try self.infer(given, options) }) }
                }
            } onCancel: {
                options.terminate()
            }
        } catch {
            try Task.checkCancellation()
            throw error
        }
    }

    private func infer(_ input: Tensor, _ options: RunOptions) throws -> [Tensor] {
        guard let session else { throw EdgeKitError.closed("this session is closed") }
        let api = runtime.api
        var memory: OpaquePointer?
        try check(api, api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory))
        defer { api.ReleaseMemoryInfo(memory) }
        var outputs = [OpaquePointer?](repeating: nil, count: graph.outputs.count)
        defer { for output in outputs where output != nil { api.ReleaseValue(output) } }
        try input.data.withUnsafeBytes { bytes in
            var value: OpaquePointer?
            let shape = input.shape.map(Int64.init)
            // The engine takes a mutable pointer, and only reads from it.
            try check(api, api.CreateTensorWithDataAsOrtValue(
                memory, UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count, shape, shape.count,
                ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value))
            defer { api.ReleaseValue(value) }
            let inputNames = Names([graph.inputs[0].name]), outputNames = Names(graph.outputs.map(\.name))
            try check(api, api.Run(session, options.pointer, inputNames.pointers, [value], 1, outputNames.pointers, outputs.count, &outputs))
        }
        return try zip(graph.outputs, outputs).map { spec, value in
            let found = try tensor(value, spec.name)
            return spec.layout == .nhwc ? found.channelsFirst : found
        }
    }

    /// A copy of an output.
    private func tensor(_ value: OpaquePointer?, _ name: String) throws -> Tensor {
        let api = runtime.api
        var info: OpaquePointer?
        try check(api, api.GetTensorTypeAndShape(value, &info))
        defer { api.ReleaseTensorTypeAndShapeInfo(info) }
        var (type, rank) = (ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, 0)
        try check(api, api.GetTensorElementType(info, &type))
        guard type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT else {
            throw EdgeKitError.engine("ONNX Runtime gave output '\(name)' in another type than float32; convert again")
        }
        try check(api, api.GetDimensionsCount(info, &rank))
        var shape = [Int64](repeating: 0, count: rank)
        try check(api, api.GetDimensions(info, &shape, rank))
        var data: UnsafeMutableRawPointer?
        try check(api, api.GetTensorMutableData(value, &data))
        let count = shape.reduce(1) { $0 * Int($1) }
        guard let data else { return Tensor([], shape: shape.map { Int($0) }) }
        return Tensor(Array(UnsafeBufferPointer(start: data.assumingMemoryBound(to: Float.self), count: count)), shape: shape.map { Int($0) })
    }

    func close() async {
        await withCheckedContinuation { continuation in
            queue.async {
                if let session = self.session { self.runtime.api.ReleaseSession(session) }
                self.session = nil
                continuation.resume()
            }
        }
    }
}

/// What ends a run early when its task is cancelled; the engine allows that from any thread.
private final class RunOptions: @unchecked Sendable {
    let pointer: OpaquePointer?
    private let runtime: Runtime

    init(_ runtime: Runtime) throws {
        self.runtime = runtime
        var pointer: OpaquePointer?
        try check(runtime.api, runtime.api.CreateRunOptions(&pointer))
        self.pointer = pointer
    }

    deinit { runtime.api.ReleaseRunOptions(pointer) }

    func terminate() {
        if let status = runtime.api.RunOptionsSetTerminate(pointer) { runtime.api.ReleaseStatus(status) }
    }
}

/// Texts as C has them, for as long as this lives.
private final class Names {
    let pointers: [UnsafePointer<CChar>?]

    init(_ texts: [String]) { pointers = texts.map { UnsafePointer(strdup($0)) } }

    deinit { for pointer in pointers { free(UnsafeMutablePointer(mutating: pointer)) } }
}
