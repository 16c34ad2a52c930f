/// What runs graphs. `EdgeKitONNX` and `EdgeKitCoreML` have one each.
public protocol Engine: Sendable {
    /// Names of engines in manifests whose files this one opens.
    var opens: [String] { get }
    /// The target to convert with for this engine, for messages.
    var target: String { get }

    /// Open the file of a graph. The bundle is verified.
    ///
    /// - Throws: `EdgeKitError.engine`: it refuses the file, or the file lacks an input or output of the manifest.
    func open(_ graph: Graph, of bundle: EdgeBundle) async throws -> any Session
}

/// One graph, opened.
public protocol Session: Sendable {
    var placement: Placement { get }

    /// Raw outputs, NCHW in the graph's order, for an input tensor (1, 3, height, width).
    ///
    /// - Throws: `EdgeKitError.engine`. `CancellationError`.
    func run(_ input: Tensor) async throws -> [Tensor]

    /// Let go of the engine's memory, after what runs.
    func close() async
}

/// An engine that runs graphs of several inputs too, which `VisionLanguage` needs. `EdgeKitONNX` has one.
public protocol NetworkEngine: Engine {
    /// Open the file of a graph. The bundle is verified.
    ///
    /// - Throws: `EdgeKitError.engine`: it refuses the file, or the file lacks an input or output of the manifest.
    func openNetwork(_ graph: Graph, of bundle: EdgeBundle) async throws -> any Network
}

/// One graph, opened, whose inputs and outputs go by their names.
public protocol Network: Sendable {
    var graph: Graph { get }
    var placement: Placement { get }

    /// All outputs of the manifest. Inputs of whole numbers are given as floats, which have them exactly up to 16,777,216.
    ///
    /// - Throws: `EdgeKitError.engine`: it failed, or an input is missing. `CancellationError`.
    func run(_ feeds: [String: Tensor]) async throws -> [String: Tensor]

    /// Let go of the engine's memory, after what runs.
    func close() async
}

/// What runs where, and why.
public struct Placement: Sendable, Hashable {
    /// `cpu`, or the units that the engine may use.
    public let unit: String
    /// The engine with its version.
    public let engine: String
    public let reason: String

    public init(unit: String, engine: String, reason: String) {
        (self.unit, self.engine, self.reason) = (unit, engine, reason)
    }
}

extension Tensor {
    /// (1, channels, rows, columns) as (1, rows, columns, channels).
    public var channelsLast: Tensor {
        guard shape.count == 4 else { return self }
        let (channels, cells) = (shape[1], shape[2] * shape[3])
        return Tensor(transposed(channels, cells), shape: [shape[0], shape[2], shape[3], channels])
    }

    /// The inverse of `channelsLast`.
    public var channelsFirst: Tensor {
        guard shape.count == 4 else { return self }
        let (channels, cells) = (shape[3], shape[1] * shape[2])
        return Tensor(transposed(cells, channels), shape: [shape[0], channels, shape[1], shape[2]])
    }

    /// A table (rows, columns) as (columns, rows).
    private func transposed(_ rows: Int, _ columns: Int) -> [Float] {
        [Float](unsafeUninitializedCapacity: data.count) { turned, count in
            data.withUnsafeBufferPointer { data in
                for row in 0..<rows {
                    for column in 0..<columns { turned[column * rows + row] = data[row * columns + column] }
                }
            }
            count = data.count
        }
    }
}
