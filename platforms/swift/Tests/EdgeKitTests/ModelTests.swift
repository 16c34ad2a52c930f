import Foundation
import Testing

@testable import EdgeKit

/// EdgeModel with an engine of the test's own: states, streams, and what is refused.
struct ModelTests {
    private static func open(
        _ engine: Fake = Fake(), _ changes: [String: String] = [:], contract: [String: String] = [:]
    ) async throws -> EdgeModel {
        let folder = try writeBundle(changes, contract: contract)
        defer { try? FileManager.default.removeItem(at: folder) }
        return try await EdgeModel.open(folder, engine: engine)
    }

    private static func frame(_ width: Int = 64, _ height: Int = 32, time: Double? = nil, orientation: Orientation = .up) throws -> Frame {
        try Frame(
            pixels: [UInt8](repeating: 0, count: 4 * width * height), width: width, height: height, orientation: orientation, time: time)
    }

    @Test func aFrameGivesDetectionsInItsOwnPixels() async throws {
        let model = try await ModelTests.open()
        let found = try await model.run(try ModelTests.frame(time: 1.5))
        guard case .detections(let detections) = found else { throw Wrong.kind }
        #expect(detections.objects.boxes == [Box(0, 0, 32, 16)])
        #expect(abs(detections.objects.scores[0] - Float(1 / (1 + exp(-2.0)))) < 1e-6)
        #expect(found.info.time == 1.5 && found.info.size == Size(width: 64, height: 32) && found.info.classes == ["cat", "dog"])
        #expect(found.timings.pre > 0 && found.timings.inference > 0 && found.timings.post > 0)
        let none = try await model(try ModelTests.frame(), Thresholds(score: 0.95))
        #expect(none.objects?.count == 0)
        #expect(model.placement.engine == "fake")
        await model.close()
    }

    @Test func aTurnedFrameIsLookedAtUpright() async throws {
        let model = try await ModelTests.open()
        #expect(try await model.run(try ModelTests.frame(orientation: .right)).info.size == Size(width: 32, height: 64))
        #expect(throws: EdgeKitError.self) { try Frame(pixels: [], width: 0, height: 0) }
        #expect(throws: EdgeKitError.self) { try Frame(pixels: [1, 2, 3, 4, 5], width: 4, height: 4) }
        await refused(containing: "score must be 0..1, not 2") { _ = try await model.run(try ModelTests.frame(), thresholds: Thresholds(score: 2)) }
        _ = try await model.run(try ModelTests.frame())  // still ready
        await model.close()
    }

    @Test func aSecondCallWhileItRunsAndAnyAfterCloseAreRefused() async throws {
        let engine = Fake(milliseconds: 500)
        let model = try await ModelTests.open(engine)
        async let first = model.run(try ModelTests.frame())
        try await until { engine.runs.withLock { $0 } == 1 }
        await refused(containing: "this model is running") { _ = try await model.run(try ModelTests.frame()) }
        _ = try await first
        await model.close()
        #expect(engine.closed.withLock { $0 } == 1)
        await refused(containing: "this model is closed") { _ = try await model.run(try ModelTests.frame()) }
        await refused(containing: "this model is closed") { _ = try await model.selfCheck() }
        await model.close()
        #expect(engine.closed.withLock { $0 } == 1)
    }

    @Test func aStreamTakesTheNewestFrameCountsTheOthersAndTracks() async throws {
        let model = try await ModelTests.open(Fake(milliseconds: 25))
        var times: [Double] = []
        var ids: Set<Int> = []
        for try await found in model.results(of: Camera(count: 20, milliseconds: 5), tracking: .byteTrack) {
            times.append(found.info.time!)
            ids.formUnion(found.objects!.trackIds!)
        }
        #expect(times.count >= 2 && times.count < 20)
        #expect(times == times.sorted() && Set(times).count == times.count)
        let dropped = await model.dropped
        #expect(dropped > 0 && dropped + times.count <= 20)
        #expect(ids == [1])
        await model.close()
    }

    @Test func aStreamEndsWithItsTaskWithItsCameraAndWithTheLoop() async throws {
        let model = try await ModelTests.open()
        let seen = Mutex(0)
        let reader = Task {
            for try await _ in model.results(of: Camera(count: 100_000, milliseconds: 2)) { seen.withLock { $0 += 1 } }
        }
        try await until { seen.withLock { $0 } > 2 }
        reader.cancel()
        try await reader.value
        await refused(containing: "the camera is gone") {
            for try await _ in model.results(of: Camera(count: 3, milliseconds: 1, failure: "the camera is gone")) {}
        }
        for try await _ in model.results(of: Camera(count: 100_000, milliseconds: 2)) { break }
        _ = try await model.run(try ModelTests.frame())
        await refused(containing: "time of each frame") {
            for try await _ in model.results(of: Camera(count: 3, milliseconds: 1, hasTime: false), tracking: .sort) {}
        }
        await model.close()
        await refused(containing: "closed") { for try await _ in model.results(of: Camera(count: 3, milliseconds: 1)) {} }
    }

    @Test func aDetectorAndAPoseModelWorkAsOne() async throws {
        let detector = try await ModelTests.open()
        let points = Fake(outputs: [Tensor([0.5, 0.5, 1, 1, 1, 0.9], shape: [1, 2, 3])])
        let graph = #"[{"files": ["model.onnx"], "inputs": [{"name": "images", "shape": [1, 3, 32, 32]}], "outputs": [{"name": "p", "shape": [1, 2, 3]}]}]"#
        let pose = try await ModelTests.open(
            points, ["graphs": graph],
            contract: [
                "task": #""pose""#, "classes": #"["cat"]"#, "decoder": #"{"name": "keypoints"}"#, "skeleton": #"{"names": ["nose", "tail"]}"#,
                "outputs": #"[{"name": "p", "role": "predictions"}]"#,
            ])
        let both = try TopDown(detector: detector, pose: pose, classes: ["cat"])
        guard case .poses(let poses) = try await both.run(try ModelTests.frame(time: 1)) else { throw Wrong.kind }
        #expect(poses.objects.boxes == [Box(0, 0, 32, 16)] && poses.info.time == 1)
        // The middle of the input is the middle of the box, its corner that of a part of 40 x 40 pixels.
        #expect(poses.keypoints == [[Keypoint(x: 16, y: 8, score: 1), Keypoint(x: 36, y: 28, score: 0.9)]])
        #expect(abs(poses.objects.scores[0] - 0.95 * Float(1 / (1 + exp(-2.0)))) < 1e-6)
        let dogs = try TopDown(detector: detector, pose: pose, classes: ["dog"])
        #expect(try await dogs.run(try ModelTests.frame()).objects?.count == 0)
        for try await found in both.results(of: Camera(count: 3, milliseconds: 1), tracking: .byteTrack) {
            #expect(found.objects?.trackIds == [1])
        }
        await refused(containing: "one of poses, not of the task 'detect'") { _ = try TopDown(detector: detector, pose: detector) }
        await refused(containing: "must find boxes, not be one of the task 'pose'") { _ = try TopDown(detector: pose, pose: pose) }
        await refused(containing: "knows no class 'cow'; it knows cat, dog") { _ = try TopDown(detector: detector, pose: pose, classes: ["cow"]) }
        await refused(containing: "margin must be at least 1, not 0.5") { _ = try TopDown(detector: detector, pose: pose, margin: 0.5) }
        await pose.close()
        await refused(containing: "closed") { _ = try await both.run(try ModelTests.frame()) }
        await detector.close()
    }

    @Test func aCancelledCallThrowsAndTheModelStaysReady() async throws {
        let engine = Fake(milliseconds: 60_000)
        let model = try await ModelTests.open(engine)
        for run in 1...2 {  // the second is let in: the first is over
            let running = Task { try await model.run(try ModelTests.frame()) }
            try await until { engine.runs.withLock { $0 } == run }
            running.cancel()
            await #expect(throws: CancellationError.self) { try await running.value }
        }
        await model.close()
    }

    @Test func whatCannotBeRunIsRefusedBeforeAnEngineIsLoaded() async throws {
        let cases: [(changes: [String: String], contract: [String: String], text: String)] = [
            (["engine": #""litert""#], [:], "for the engine litert"),
            ([:], ["decoder": #"{"name": "telepathy"}"#], "'telepathy' is not one of: anchor_free"),
            ([:], ["decoder": #"{"name": "anchor_free", "options": {"strides": [16], "nonsense": 1}}"#], "its options are: strides"),
            ([:], ["task": #""dance""#], "task 'dance' is not one of: classify"),
            ([:], ["image": #"{"size": [64, 64]}"#], "makes a float32 input of 64x64"),
            ([:], ["task": #""pose""#], "names its keypoints"),
            (["schema": "2"], [:], "reads up to 1"),
            (["name": "7"], [:], "Expected `str`, got `int` - at `$.name`"),
        ]
        for (changes, contract, text) in cases {
            let engine = Fake()
            await refused(containing: text) { _ = try await ModelTests.open(engine, changes, contract: contract) }
            #expect(engine.opened.withLock { $0 } == 0)
        }
        #expect((EdgeKitError.usage("what to do") as any Error).localizedDescription == "what to do")
        await refused(containing: "no bundle there") { _ = try await EdgeModel.open(URL(fileURLWithPath: "/nowhere"), engine: Fake()) }
    }

    @Test func aFlippedByteIsFound() async throws {
        let folder = try writeBundle()
        defer { try? FileManager.default.removeItem(at: folder) }
        var data = try Data(contentsOf: folder.appendingPathComponent("model.onnx"))
        data[3] ^= 1
        try data.write(to: folder.appendingPathComponent("model.onnx"))
        #expect(throws: EdgeKitError.self) { try EdgeBundle(opening: folder) }
        await refused(containing: "hash differs") { _ = try await EdgeModel.open(folder, engine: Fake()) }
    }

    @Test func outputsThatAreNotFiniteAreAnError() async throws {
        let model = try await ModelTests.open(Fake(logit: .nan))
        await refused(containing: "NaN or infinite outputs") { _ = try await model.run(try ModelTests.frame()) }
        await refused(containing: "has no golden frames") { _ = try await model.selfCheck() }
        await model.close()
    }

    @Test func trackersRefuseWrongOptionsInSwiftToo() {
        var options = ByteTrackOptions()
        options.lowScore = 0.9
        #expect(throws: EdgeKitError.self) { try Tracker.byteTrack(options) }
        var appearance = BoTSortOptions()
        appearance.memory = 2
        #expect(throws: EdgeKitError.self) { try Tracker.botSort(appearance) }
        #expect(throws: EdgeKitError.self) { try Tracker(named: "deepsort") }
    }

    @Test func thePortableHashIsSHA256() {
        let abc = Array("abc".utf8)
        let found = abc.withUnsafeBytes { PortableSHA256.hash($0) }
        #expect(found.prefix(4) == [0xba, 0x78, 0x16, 0xbf])
        #expect(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        #expect(sha256(String(repeating: "a", count: 200)) == "c2a908d98f5df987ade41b5fce213067efbcc21ef2240212a41e54b5e7c28ae5")
    }
}

private enum Wrong: Error { case kind, time }

/// Wait for what other tasks do.
private func until(_ isSo: () -> Bool) async throws {
    for _ in 0..<10_000 {
        if isSo() { return }
        try await Task.sleep(for: .milliseconds(2))
    }
    throw Wrong.time
}

/// What a call throws has this in its message.
private func refused(
    containing text: String, sourceLocation: SourceLocation = #_sourceLocation, _ work: () async throws -> Void
) async {
    do {
        try await work()
        Issue.record("nothing was thrown, where '\(text)' was expected", sourceLocation: sourceLocation)
    } catch {
        #expect("\(error)".contains(text), sourceLocation: sourceLocation)
    }
}

/// Frames of 64x32, one after the other.
private struct Camera: AsyncSequence, Sendable {
    let count: Int
    let milliseconds: Int
    var failure: String?
    var hasTime = true

    struct Iterator: AsyncIteratorProtocol {
        let camera: Camera
        var number = 0

        mutating func next() async throws -> Frame? {
            try await Task.sleep(for: .milliseconds(camera.milliseconds))
            if number == camera.count {
                if let failure = camera.failure { throw EdgeKitError.input(failure) }
                return nil
            }
            defer { number += 1 }
            return try Frame(
                pixels: [UInt8](repeating: 0, count: 4 * 64 * 32), width: 64, height: 32, time: camera.hasTime ? Double(number) / 30 : nil)
        }
    }

    func makeAsyncIterator() -> Iterator { Iterator(camera: self) }
}

/// An engine that finds one cat in the first cell.
final class Fake: Engine {
    let opens = ["onnxruntime"]
    let target = "onnx"
    let milliseconds: Int
    let logit: Float
    let opened = Mutex(0)
    let runs = Mutex(0)
    let closed = Mutex(0)

    /// What it gives in place of the cat.
    let outputs: [Tensor]?

    init(milliseconds: Int = 0, logit: Float = 2, outputs: [Tensor]? = nil) {
        (self.milliseconds, self.logit, self.outputs) = (milliseconds, logit, outputs)
    }

    func open(_ graph: Graph, of bundle: EdgeBundle) async throws -> any Session {
        opened.withLock { $0 += 1 }
        return FakeSession(engine: self)
    }
}

private struct FakeSession: Session {
    let engine: Fake
    var placement: Placement { Placement(unit: "cpu", engine: "fake", reason: "a test") }

    func run(_ input: Tensor) async throws -> [Tensor] {
        engine.runs.withLock { $0 += 1 }
        if engine.milliseconds > 0 { try await Task.sleep(for: .milliseconds(engine.milliseconds)) }
        if let outputs = engine.outputs { return outputs }
        var classes = [Float](repeating: -9, count: 8)
        classes[0] = engine.logit
        return [Tensor([Float](repeating: 0.5, count: 16), shape: [1, 4, 2, 2]), Tensor(classes, shape: [1, 2, 2, 2])]
    }

    func close() async { engine.closed.withLock { $0 += 1 } }
}

/// The folder of a small detector: 32 x 32, stride 16, two classes; entries of the manifest and contract as JSON, further files.
func writeBundle(_ changes: [String: String] = [:], contract: [String: String] = [:], files: [String: [UInt8]] = [:]) throws -> URL {
    let files = files.merging(["model.onnx": Array("a model that only the test's engine can run".utf8)]) { $1 }
    let listed = files.sorted { $0.key < $1.key }.map { name, data in
        #"{"path": "\#(name)", "bytes": \#(data.count), "sha256": "\#(data.withUnsafeBytes { sha256($0) })"}"#
    }
    var manifest = try object(
        #"""
        {"schema": 1, "edgekit": "0.1.0", "name": "tiny", "target": "onnx", "precision": "fp32", "engine": "onnxruntime",
         "graphs": [{"files": ["model.onnx"], "inputs": [{"name": "images", "shape": [1, 3, 32, 32]}],
                     "outputs": [{"name": "boxes", "shape": [1, 4, 2, 2]}, {"name": "classes", "shape": [1, 2, 2, 2]}]}],
         "origin": {"kind": "torch", "name": "tiny", "sha256": "00"}, "toolchain": {},
         "files": [\#(listed.joined(separator: ", "))]}
        """#)
    var rules = try object(
        """
        {"image": {"size": [32, 32]}, "classes": ["cat", "dog"], "decoder": {"name": "anchor_free", "options": {"strides": [16], "reg_max": 1}},
         "outputs": [{"name": "boxes", "role": "boxes"}, {"name": "classes", "role": "classes"}]}
        """)
    for (key, value) in contract { rules[key] = try JSON(parsing: Array(value.utf8)) }
    manifest["contract"] = .object(rules)
    for (key, value) in changes { manifest[key] = try JSON(parsing: Array(value.utf8)) }
    manifest["digest"] = .string(ManifestFile.digest(manifest))
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    for (name, data) in files { try Data(data).write(to: folder.appendingPathComponent(name)) }
    try Data(JSON.object(manifest).canonical.utf8).write(to: folder.appendingPathComponent("manifest.json"))
    return folder
}

private func object(_ text: String) throws -> JSON.Object {
    guard case .object(let object) = try JSON(parsing: Array(text.utf8)) else { throw Wrong.kind }
    return object
}
