import COnnxRuntime
import EdgeKit
import Foundation

/// ONNX Runtime through its C API: bundles of the targets `onnx` and `web`.
public struct ONNXRuntime: NetworkEngine {
    /// Threads for one inference; 0 for the engine's own choice.
    public var threads: Int

    public var opens: [String] { ["onnxruntime", "web"] }
    public var target: String { "onnx" }

    public init(threads: Int = 0) { self.threads = threads }

    public func open(_ graph: Graph, of bundle: EdgeBundle) async throws -> any Session {
        try ONNXSession(graph, bundle, threads: threads)
    }

    public func openNetwork(_ graph: Graph, of bundle: EdgeBundle) async throws -> any Network {
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
private final class ONNXSession: Session, Network, @unchecked Sendable {
    let placement: Placement
    let graph: Graph
    private let runtime: Runtime
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
        let given = graph.inputs[0].layout == .nhwc ? input.channelsLast : input
        return try await queued { try self.infer(given, $0) }
    }

    func run(_ feeds: [String: Tensor]) async throws -> [String: Tensor] {
        try await queued { try self.infer(feeds, $0) }
    }

    private func queued<Found: Sendable>(_ work: @escaping @Sendable (RunOptions) throws -> Found) async throws -> Found {
        let options = try RunOptions(runtime)
        do {
            return try await withTaskCancellationHandler {
                try await withCheckedThrowingContinuation { continuation in
                    queue.async { continuation.resume(with: Result { try work(options) }) }
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

    private func infer(_ feeds: [String: Tensor], _ options: RunOptions) throws -> [String: Tensor] {
        guard let session else { throw EdgeKitError.closed("this session is closed") }
        let api = runtime.api
        var (inputs, outputs) = ([OpaquePointer?](), [OpaquePointer?](repeating: nil, count: graph.outputs.count))
        defer { for value in inputs + outputs where value != nil { api.ReleaseValue(value) } }
        for spec in graph.inputs {
            guard let tensor = feeds[spec.name] else {
                throw EdgeKitError.engine("graph '\(graph.name)' takes '\(spec.name)', which this package does not have for it; convert again")
            }
            inputs.append(try value(tensor, spec))
        }
        let inputNames = Names(graph.inputs.map(\.name)), outputNames = Names(graph.outputs.map(\.name))
        try check(api, api.Run(session, options.pointer, inputNames.pointers, inputs, inputs.count, outputNames.pointers, outputs.count, &outputs))
        return Dictionary(uniqueKeysWithValues: try zip(graph.outputs, outputs).map { ($0.name, try tensor($1, $0.name)) })
    }

    /// A tensor in the engine's memory, of the type that the graph takes.
    private func value(_ tensor: Tensor, _ spec: TensorSpec) throws -> OpaquePointer? {
        let api = runtime.api
        let types = ["float32": ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "int32": ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "int64": ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64]
        guard let type = types[spec.dtype] else {
            throw EdgeKitError.engine("input '\(spec.name)' is \(spec.dtype), and this package gives float32, int32 and int64; convert again")
        }
        var (value, allocator, data) = (OpaquePointer?.none, UnsafeMutablePointer<OrtAllocator>?.none, UnsafeMutableRawPointer?.none)
        try check(api, api.GetAllocatorWithDefaultOptions(&allocator))
        let shape = tensor.shape.map(Int64.init)
        try check(api, api.CreateTensorAsOrtValue(allocator, shape, shape.count, type, &value))
        try check(api, api.GetTensorMutableData(value, &data))
        guard let data else { return value }
        func fill<Number: FixedWidthInteger>(_: Number.Type) {
            let place = data.assumingMemoryBound(to: Number.self)
            for (i, number) in tensor.data.enumerated() { place[i] = Number(number) }
        }
        switch spec.dtype {
        case "int64": fill(Int64.self)
        case "int32": fill(Int32.self)
        default: tensor.data.withUnsafeBytes { data.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        }
        return value
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
