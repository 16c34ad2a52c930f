/// Top-down pose: a detector finds the people, a pose model runs on each of them.
///
/// Frame in, poses of all its people out, best first. Boxes are the detector's; scores are its score times the pose's (the mean
/// of its keypoints'). Both models stay the caller's to close.
public actor TopDown: Streaming {
    /// Frames of streams that came while the models were busy, and were not looked at.
    public private(set) var dropped = 0

    private let detector: EdgeModel
    private let pose: EdgeModel
    private let skeleton: Skeleton
    private let wanted: Set<Int>
    private let margin: Double
    private let double: Double

    /// - Parameters:
    ///   - detector: Finds boxes.
    ///   - pose: Sees one object in its input; run once for each box.
    ///   - classes: Of the detector, that have this pose; `person` when it knows that name, else all.
    ///   - margin: Size of the part that is looked at, over the box.
    ///   - double: OKS above which the worse of two poses is dropped.
    /// - Throws: `EdgeKitError.usage`: models of other tasks, a class that the detector does not know, a margin below 1.
    public init(
        detector: EdgeModel, pose: EdgeModel, classes: [String]? = nil, margin: Double = 1.25, double: Double = 0.9
    ) throws {
        let (boxes, points) = (detector.manifest.contract, pose.manifest.contract)
        guard points.task == "pose", let skeleton = points.skeleton else {
            throw EdgeKitError.usage("the second model must be one of poses, not of the task '\(points.task)'")
        }
        if boxes.task != "detect" && boxes.task != "segment" {
            throw EdgeKitError.usage("the first model must find boxes, not be one of the task '\(boxes.task)'")
        }
        let names = classes ?? (boxes.classes.contains("person") ? ["person"] : boxes.classes)
        if let unknown = names.first(where: { !boxes.classes.contains($0) }) {
            throw EdgeKitError.usage(
                "the detector knows no class '\(unknown)'; it knows \(boxes.classes.joined(separator: ", "))")
        }
        if !(margin >= 1) { throw EdgeKitError.usage("margin must be at least 1, not \(margin)") }
        wanted = Set(names.compactMap { boxes.classes.firstIndex(of: $0) })
        (self.detector, self.pose, self.skeleton, self.margin, self.double) = (detector, pose, skeleton, margin, double)
    }

    /// The poses in one frame; thresholds are the detector's. Throws as `EdgeModel.run` of either model.
    public func run(_ frame: Frame, thresholds: Thresholds? = nil) async throws -> EdgeResult {
        let clock = ContinuousClock()
        let all = try await detector.run(frame, thresholds: thresholds)
        let begun = clock.now
        guard let objects = all.objects else { throw EdgeKitError.usage("the detector gave no boxes") }
        let found = objects.picked(objects.classIds.indices.filter { wanted.contains(objects.classIds[$0]) }, trackIds: nil)
        let (keypoints, inference) = try await pose.poses(in: frame.upright, found.boxes, margin: margin)
        var poses = joined(all.info, found, keypoints, skeleton, double)
        poses.info.timings.inference += inference
        poses.info.timings.post += milliseconds(clock.now - begun) - inference
        return .poses(poses)
    }

    /// Results of frames as they come, as `EdgeModel.results` has them.
    public nonisolated func results<Frames: AsyncSequence & Sendable>(
        of frames: Frames, thresholds: Thresholds? = nil, tracking tracker: Tracker? = nil
    ) -> AsyncThrowingStream<EdgeResult, any Error> where Frames.Element == Frame {
        streamed(frames, thresholds, tracker)
    }

    package func count(dropped frames: Int) { dropped += frames }
}

/// Run a pose model once for each box: its best pose there, zeros where there is none, and milliseconds in the engine.
package func posesIn(
    _ image: Pixels, _ boxes: [Box], _ margin: Double, _ task: any TaskReader, _ preprocessor: Preprocessor,
    isolation: isolated (any Actor)? = #isolation, run: (Tensor) async throws -> [Tensor]
) async throws -> (keypoints: [[Keypoint]], inference: Double) {
    let clock = ContinuousClock()
    var found: [[Keypoint]] = []
    var inference = 0.0
    for box in boxes {
        let mapping = Transform(around: box, margin: margin, preprocessor.rule, in: Size(width: image.width, height: image.height))
        let tensor = preprocessor.part(image, mapping)
        let begun = clock.now
        let outputs = try await run(tensor)
        inference += milliseconds(clock.now - begun)
        guard case .poses(let poses) = try task.result(outputs, mapping, Thresholds(score: -1)) else { continue }
        found.append(poses.keypoints.first ?? poses.skeleton.names.map { _ in Keypoint(x: 0, y: 0, score: 0) })
    }
    return (found, inference)
}

/// Boxes and the poses in them as one result, best first: scores multiplied, and poses that are one person's dropped.
package func joined(_ info: FrameInfo, _ found: Objects, _ keypoints: [[Keypoint]], _ skeleton: Skeleton, _ double: Double) -> Poses {
    var found = found
    for (row, points) in keypoints.enumerated() { found.scores[row] *= points.reduce(Float(0)) { $0 + $1.score } / Float(points.count) }
    let areas = found.boxes.map { areaShare * $0.area }
    let kept = keypointSuppression(keypoints, scores: found.scores, areas: areas, sigmas: skeleton.spreads, limit: double)
    return Poses(info: info, objects: found.picked(kept, trackIds: nil), keypoints: keypoints.taking(kept), skeleton: skeleton)
}

/// Area of a person's outline as a share of its box.
private let areaShare: Float = 0.53

extension Skeleton {
    /// The spread of every keypoint, 0.05 where the skeleton does not tell.
    fileprivate var spreads: [Double] { sigmas.isEmpty ? names.map { _ in 0.05 } : sigmas }
}
