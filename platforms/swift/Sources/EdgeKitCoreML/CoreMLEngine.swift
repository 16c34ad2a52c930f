// Core ML exists on Apple's systems only. Nothing in this file has been compiled by edgekit's tests, which run on Linux.

#if canImport(CoreML)
import CoreML
import EdgeKit
import Foundation

/// Core ML: bundles of the target `coreml`.
public struct CoreMLEngine: Engine {
    /// Units that Core ML may use. The CPU and the Neural Engine by default: with `.all`, Core ML often moves parts to the
    /// GPU and back, which was slower on the phones that others measured.
    public var units: MLComputeUnits

    public var opens: [String] { ["coreml"] }
    public var target: String { "coreml" }

    public init(units: MLComputeUnits = .cpuAndNeuralEngine) { self.units = units }

    public func open(_ graph: Graph, of bundle: EdgeBundle) async throws -> any Session {
        // The first file of the graph lies in the package: model.mlpackage/Manifest.json.
        let top = graph.files[0].split(separator: "/").first.map(String.init) ?? graph.files[0]
        let compiled = try await compiled(bundle.url(of: top), bundle)
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        do {
            let model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
            return CoreMLSession(model, graph, Placement(unit: shown, engine: "coreml", reason: "asked for"))
        } catch {
            throw EdgeKitError.engine("\(top): Core ML cannot open it: \(error.localizedDescription)")
        }
    }

    private var shown: String {
        switch units {
        case .cpuOnly: "cpu"
        case .cpuAndGPU: "cpu and gpu"
        case .cpuAndNeuralEngine: "cpu and neural engine"
        default: "all"
        }
    }

    /// The compiled model, once for each content of a bundle, in the app's caches.
    private func compiled(_ package: URL, _ bundle: EdgeBundle) async throws -> URL {
        do {
            let files = FileManager.default
            let caches = try files.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            let place = caches.appendingPathComponent("edgekit/\(bundle.digest).mlmodelc")
            if files.fileExists(atPath: place.path) { return place }
            let fresh = try await MLModel.compileModel(at: package)
            try files.createDirectory(at: place.deletingLastPathComponent(), withIntermediateDirectories: true)
            _ = try? files.removeItem(at: place)
            try files.moveItem(at: fresh, to: place)
            return place
        } catch {
            throw EdgeKitError.engine("\(package.path): Core ML cannot compile it: \(error.localizedDescription)")
        }
    }
}

/// A loaded model. An actor, so that one prediction runs at a time.
private actor CoreMLSession: Session {
    nonisolated let placement: Placement
    private var model: MLModel?
    private let graph: Graph

    init(_ model: MLModel, _ graph: Graph, _ placement: Placement) {
        (self.model, self.graph, self.placement) = (model, graph, placement)
    }

    func run(_ input: Tensor) async throws -> [Tensor] {
        guard let model else { throw EdgeKitError.closed("this session is closed") }
        let spec = graph.inputs[0]
        let given = spec.layout == .nhwc ? input.channelsLast : input
        do {
            let array = MLMultiArray(MLShapedArray(scalars: given.data, shape: given.shape))
            let features = try MLDictionaryFeatureProvider(dictionary: [spec.name: array])
            let found = try model.prediction(from: features)
            return try graph.outputs.map { spec in
                guard let array = found.featureValue(for: spec.name)?.multiArrayValue else {
                    throw EdgeKitError.engine("Core ML gave no array '\(spec.name)'; convert again")
                }
                let values = MLShapedArray<Float>(converting: array)
                let output = Tensor(values.scalars, shape: values.shape)
                return spec.layout == .nhwc ? output.channelsFirst : output
            }
        } catch let error as EdgeKitError {
            throw error
        } catch {
            throw EdgeKitError.engine("Core ML failed: \(error.localizedDescription)")
        }
    }

    func close() { model = nil }
}
#endif
