import Foundation

/// A bundle, opened and ready: frame in, result out. It runs one frame at a time; `close()` it in the end.
public actor EdgeModel: Streaming {
    /// All that the bundle says of itself.
    public nonisolated let manifest: Manifest
    /// What runs where, and why.
    public nonisolated let placement: Placement
    /// Frames of streams that came while the model was busy, and were not looked at.
    public private(set) var dropped = 0

    private let bundle: EdgeBundle
    private let session: any Session
    private let task: any TaskReader
    private var preprocessor: Preprocessor
    private var isRunning = false
    private var isClosed = false

    private init(_ bundle: EdgeBundle, _ session: any Session, _ task: any TaskReader, _ scaler: Scaler) {
        manifest = bundle.manifest
        placement = session.placement
        preprocessor = Preprocessor(bundle.manifest.contract.image, scaler: scaler)
        (self.bundle, self.session, self.task) = (bundle, session, task)
    }

    /// Open a bundle. All hashes are checked.
    ///
    /// - Parameters:
    ///   - folder: The folder that `edgekit convert` wrote.
    ///   - engine: `ONNXRuntime()` of EdgeKitONNX or `CoreMLEngine()` of EdgeKitCoreML.
    ///   - scaler: How frames are scaled to the input.
    /// - Throws: `EdgeKitError.bundle`: damaged, altered or too new. `.contract`: a task or decoder that this package lacks.
    ///   `.engine`: the engine refuses the file. `.usage`: a bundle of another engine. `CancellationError`.
    public static func open(_ folder: URL, engine: any Engine, scaler: Scaler = .exact) async throws -> EdgeModel {
        let bundle = try EdgeBundle(opening: folder)
        let graph = try onlyGraph(bundle.manifest, engine)
        let task = try openTask(bundle.manifest.contract)  // refuses what cannot be decoded before an engine is loaded
        try Task.checkCancellation()
        let session = try await engine.open(graph, of: bundle)
        if Task.isCancelled {
            await session.close()
            throw CancellationError()
        }
        return EdgeModel(bundle, session, task, scaler)
    }

    /// The result of one frame.
    ///
    /// - Throws: `EdgeKitError.busy`: it is running. `.closed`. `.usage`: a threshold is out of range. `.engine`: the engine
    ///   failed, or gave NaN or infinite outputs. `CancellationError`.
    public func run(_ frame: Frame, thresholds: Thresholds? = nil) async throws -> EdgeResult {
        try begin()
        defer { isRunning = false }
        let clock = ContinuousClock()
        let begun = clock.now
        let (tensor, mapping) = preprocessor.run(frame.upright)
        let ready = clock.now
        let outputs = try await session.run(tensor)
        let inferred = clock.now
        var result = try task.result(outputs, mapping, thresholds ?? Thresholds())
        result.info.time = frame.time
        result.info.timings = Timings(
            pre: milliseconds(ready - begun), inference: milliseconds(inferred - ready), post: milliseconds(clock.now - inferred))
        return result
    }

    /// `model(frame)` is `model.run(frame)`.
    public func callAsFunction(_ frame: Frame, _ thresholds: Thresholds? = nil) async throws -> EdgeResult {
        try await run(frame, thresholds: thresholds)
    }

    /// Results of frames as they come: always of the newest frame, the others are `dropped`.
    ///
    /// The stream ends with its frames, with the task that reads it, and with the loop (`break`). With a tracker, the model
    /// finds from the tracker's least score on, and results are the tracks in sight, with `trackIds`: plain boxes are the
    /// tracks', inside the frame; those around keypoints and masks stay as found. Frames then need a `time`.
    ///
    /// The stream throws what its frames throw, and otherwise as `run`.
    public nonisolated func results<Frames: AsyncSequence & Sendable>(
        of frames: Frames, thresholds: Thresholds? = nil, tracking tracker: Tracker? = nil
    ) -> AsyncThrowingStream<EdgeResult, any Error> where Frames.Element == Frame {
        streamed(frames, thresholds, tracker)
    }

    package func count(dropped frames: Int) { dropped += frames }

    /// The best pose in each of these boxes of an upright image, whatever its score, and milliseconds in the engine; see `TopDown`.
    package func poses(in image: Pixels, _ boxes: [Box], margin: Double) async throws -> (keypoints: [[Keypoint]], inference: Double) {
        try begin()
        defer { isRunning = false }
        return try await posesIn(image, boxes, margin, task, preprocessor) { try await session.run($0) }
    }

    /// Replay the golden frames of the bundle: the record says whether this device finds what the bundle found when it was
    /// converted. As JSON it is what `edgekit evidence add BUNDLE RECORD.json` reads.
    ///
    /// - Throws: `EdgeKitError.usage`: the bundle has none. Otherwise as `run`.
    public func selfCheck() async throws -> SelfCheck {
        try begin()
        defer { isRunning = false }
        return try await EdgeKit.selfCheck(bundle, task, preprocessor, session)
    }

    /// Let go of the engine and its memory, after what is running; what is called afterwards throws `EdgeKitError.closed`.
    public func close() async {
        if isClosed { return }
        isClosed = true
        await session.close()
    }

    private func begin() throws {
        if isClosed { throw EdgeKitError.closed("this model is closed: open it again with EdgeModel.open(...)") }
        if isRunning {
            throw EdgeKitError.busy("this model is running: await its result first, or use results(of:), which takes the newest frame")
        }
        try Task.checkCancellation()
        isRunning = true
    }
}

package func milliseconds(_ duration: Duration) -> Double {
    Double(duration.components.seconds) * 1e3 + Double(duration.components.attoseconds) * 1e-15
}

/// The one graph of a bundle that this package can run.
private func onlyGraph(_ manifest: Manifest, _ engine: any Engine) throws -> Graph {
    let (contract, name) = (manifest.contract, manifest.name)
    if contract.language != nil { throw EdgeKitError.usage("\(name) is a vision-language model; open it with VisionLanguage.open(...)") }
    guard manifest.graphs.count == 1, let graph = manifest.graphs.first else {
        throw EdgeKitError.bundle(.invalid, "\(name): \(manifest.graphs.count) graphs; a \(contract.task) model has one")
    }
    let own = graph.engine ?? manifest.engine
    if !engine.opens.contains(own) {
        throw EdgeKitError.usage(
            "\(name) is for the engine \(own), and this one runs files of \(engine.opens.joined(separator: ", ")); convert the model with --target \(engine.target)")
    }
    let (height, width) = (contract.image.height, contract.image.width)
    let fits = graph.inputs.count == 1 && graph.inputs.allSatisfy { input in
        let wanted = input.layout == .nchw ? [1, 3, height, width] : [1, height, width, 3]
        return input.dtype == "float32" && input.shape.count == 4
            && zip(input.shape, wanted).allSatisfy { $0 == $1 || (manifest.hasVariants && $0 == -1) }
    }
    if !fits {
        let shapes = graph.inputs.map { "\($0.dtype) \($0.shape)" }.joined(separator: " and ")
        throw EdgeKitError.bundle(
            .invalid, "\(name): the contract makes a float32 input of \(height)x\(width), the graph takes \(shapes); convert the model again")
    }
    return graph
}
