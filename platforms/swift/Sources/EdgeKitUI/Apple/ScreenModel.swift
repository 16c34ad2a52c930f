// Combine and UIKit exist on Apple's systems only. Nothing in this file has been compiled by edgekit's tests, which run on
// Linux; what it does with results is in the files beside this folder, which are.

#if canImport(SwiftUI) && canImport(UIKit)
import EdgeKit
import SwiftUI
import UIKit

/// What the screen shows, and what its buttons do. One thing at a time: the camera is stopped before anything else begins.
@MainActor
final class ScreenModel: ObservableObject {
    /// What the preview shows under the overlay.
    enum Background {
        case nothing
        case camera
        case picture(UIImage)
    }

    @Published private(set) var manifest: Manifest?
    @Published private(set) var placement: Placement?
    @Published private(set) var background = Background.nothing
    @Published private(set) var overlay: Overlay?
    @Published private(set) var lines: [FoundLine] = []
    @Published private(set) var status = "The model is being opened."
    @Published private(set) var problem: Problem?
    @Published private(set) var hud = Hud()
    @Published private(set) var dropped = 0
    @Published private(set) var thermal = Device.thermalState
    @Published private(set) var isBusy = true
    @Published private(set) var proof: String?
    /// The file of the last self-check or benchmark, and the command that reads it.
    @Published private(set) var record: (file: URL, command: String)?
    @Published private(set) var side = CameraTurn.Side.back
    @Published var score = 0.25 { didSet { redraw() } }
    @Published var isTracking = false { didSet { if isWatching { watch(side) } } }

    let feed = CameraFeed()
    private let folder: URL
    private let engine: any Engine
    private var model: EdgeModel?
    private var last: EdgeResult?
    private var seen: Frame?
    private var work: Task<Void, Never>?

    init(folder: URL, engine: any Engine) { (self.folder, self.engine) = (folder, engine) }

    var isWatching: Bool {
        if case .camera = background { return true }
        return false
    }

    /// Whether results have boxes, so that a least score and tracks mean something.
    var hasBoxes: Bool { ["detect", "pose", "segment", "obb"].contains(manifest?.contract.task ?? "") }

    func open() {
        alone {
            let model = try await self.opened()
            self.score = model.manifest.contract.postprocess.scoreThreshold
            self.status = "Ready."
        }
    }

    func watch(_ side: CameraTurn.Side) {
        self.side = side
        replace {
            guard let model = self.model else { return }
            let frames = try await self.feed.frames(of: side)
            let before = await model.dropped
            self.background = .camera
            self.hud = Hud()
            let contract = model.manifest.contract
            let tracker = self.hasBoxes && self.isTracking ? try Tracker(named: "bytetrack", options: contract.trackerOptions) : nil
            // A tracker needs the unsure ones, too; what is below the least score is not drawn.
            let wanted = tracker == nil && self.hasBoxes ? Thresholds(score: self.score) : nil
            for try await result in model.results(of: frames, thresholds: wanted, tracking: tracker) {
                self.show(result)
                self.dropped = await model.dropped - before
            }
        }
    }

    /// The least score was chosen: a stream that runs without tracker finds from there on.
    func scoreChosen() {
        if isWatching && !isTracking { watch(side) } else if let seen { look(at: seen, shown: nil) }
    }

    func stop() {
        work?.cancel()
        feed.stop()
        if isWatching { (background, overlay, status) = (.nothing, nil, "The camera is off.") }
    }

    func look(at data: Data) {
        do {
            look(at: try Frame(picture: data), shown: UIImage(data: data))
        } catch {
            problem = Problem(error)
        }
    }

    func look(at frame: Frame, shown image: UIImage?) {
        alone {
            guard let model = self.model else { return }
            let result = try await model.run(frame, thresholds: self.hasBoxes ? Thresholds(score: self.score) : nil)
            self.seen = frame
            if let image { self.background = .picture(image) }
            self.hud = Hud()
            self.show(result)
        }
    }

    /// The picture that came with the bundle.
    func lookAtExample() {
        guard let path = manifest?.files.map(\.path).first(where: { $0.hasPrefix("golden/") && $0.hasSuffix(".png") }) else { return }
        if let data = try? Data(contentsOf: folder.appendingPathComponent(path)) { look(at: data) }
    }

    var hasExample: Bool { manifest?.files.contains { $0.path == "golden/frames.json" } ?? false }

    func selfCheck() {
        alone {
            guard let model = self.model else { return }
            self.proof = "Replaying the golden frames."
            let found = try await model.selfCheck()
            self.proof = found.sentence
            try self.keep(found.json, as: "selfcheck", for: "edgekit evidence add BUNDLE")
        }
    }

    func benchmark() {
        alone {
            guard let model = self.model, let manifest = self.manifest else { return }
            let image = manifest.contract.image
            let frame: Frame
            if let seen = self.seen { frame = seen } else { frame = try .noise(Size(width: image.width, height: image.height)) }
            await model.close()
            self.model = nil
            defer { UIApplication.shared.isIdleTimerDisabled = false }
            UIApplication.shared.isIdleTimerDisabled = true
            do {
                let (folder, engine) = (self.folder, self.engine)
                let found = try await Benchmark.run(
                    frame, tell: { number in await self.tell("Round \(number) of \(Benchmark.Length().rounds).") },
                    open: { try await EdgeModel.open(folder, engine: engine) })
                self.proof = "Timed \(found.rounds.reduce(0) { $0 + $1.total.count }) calls in \(found.rounds.count) rounds."
                try self.keep(found.json, as: "benchmark", for: "edgekit profile import")
            } catch {
                try await self.reopened()
                throw error
            }
            try await self.reopened()
        }
    }

    /// After a benchmark, and after one that was cancelled, too: in a task that is not.
    private func reopened() async throws { _ = try await Task { try await opened() }.value }

    private func tell(_ text: String) { proof = text }

    /// Open the bundle and run it once: the first call of a model takes longer than the others.
    private func opened() async throws -> EdgeModel {
        let model = try await EdgeModel.open(folder, engine: engine)
        let image = model.manifest.contract.image
        _ = try await model.run(try .noise(Size(width: image.width, height: image.height)))
        (self.model, manifest, placement) = (model, model.manifest, model.placement)
        return model
    }

    private func keep(_ data: Data, as what: String, for command: String) throws {
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("\(manifest?.name ?? "model")-\(what).json")
        try data.write(to: file)
        record = (file, "\(command) \(file.lastPathComponent)")
    }

    private func show(_ result: EdgeResult) {
        last = result
        hud.add(result.timings, at: ProcessInfo.processInfo.systemUptime)
        thermal = Device.thermalState
        redraw()
    }

    private func redraw() {
        guard let last else { return }
        overlay = Overlay(last, from: score)
        lines = last.lines(from: score)
        status = last.sentence(from: score)
    }

    /// Do something with the model alone; a second wish meanwhile is not heard.
    private func alone(_ what: @escaping @MainActor () async throws -> Void) {
        if isBusy && manifest != nil { return }
        isBusy = true
        stop()
        replace {
            defer { self.isBusy = false }
            try await what()
        }
    }

    /// Do something after what runs now, which is cancelled.
    private func replace(_ what: @escaping @MainActor () async throws -> Void) {
        let before = work
        before?.cancel()
        problem = nil
        work = Task {
            await before?.value
            do {
                try await what()
            } catch is CancellationError {
            } catch {
                self.problem = Problem(error)
                if self.isWatching { self.background = .nothing }
            }
        }
    }
}

extension Frame {
    /// A frame of grey noise.
    fileprivate static func noise(_ size: Size) throws -> Frame {
        try Frame(pixels: (0..<3 * size.width * size.height).map { _ in .random(in: 0...255) }, width: size.width, height: size.height, format: .rgb)
    }
}
#endif
