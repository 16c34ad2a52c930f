/// What a model finds in one frame: one type for each task. Coordinates are pixels of the upright frame.
///
/// Called `EdgeResult` because a type named `Result` would hide Swift's own from everyone who imports this package.
public enum EdgeResult: Sendable {
    case detections(Detections)
    case poses(Poses)
    case instances(Instances)
    case oriented(OrientedBoxes)
    case classification(Classification)
    case labels(LabelMap)
    case embedding(Embedding)

    /// The frame that this was found in, and what it took.
    public var info: FrameInfo {
        get {
            switch self {
            case .detections(let one): one.info
            case .poses(let one): one.info
            case .instances(let one): one.info
            case .oriented(let one): one.info
            case .classification(let one): one.info
            case .labels(let one): one.info
            case .embedding(let one): one.info
            }
        }
        set {
            switch self {
            case .detections(var one): one.info = newValue; self = .detections(one)
            case .poses(var one): one.info = newValue; self = .poses(one)
            case .instances(var one): one.info = newValue; self = .instances(one)
            case .oriented(var one): one.info = newValue; self = .oriented(one)
            case .classification(var one): one.info = newValue; self = .classification(one)
            case .labels(var one): one.info = newValue; self = .labels(one)
            case .embedding(var one): one.info = newValue; self = .embedding(one)
            }
        }
    }

    /// Milliseconds before, in and after the engine.
    public var timings: Timings { info.timings }

    /// The objects of tasks with boxes; nil for the others.
    public var objects: Objects? {
        get {
            switch self {
            case .detections(let one): one.objects
            case .poses(let one): one.objects
            case .instances(let one): one.objects
            case .oriented(let one): one.objects
            case .classification, .labels, .embedding: nil
            }
        }
    }
}

/// The frame that a result is of.
public struct FrameInfo: Sendable, Hashable {
    /// Of the upright frame.
    public var size: Size
    /// Names of all classes that the model knows.
    public var classes: [String]
    /// Seconds, as the frame has it.
    public var time: Double?
    public var timings = Timings()
}

/// Milliseconds that one frame took: before, in, and after the engine.
public struct Timings: Sendable, Hashable {
    public var pre = 0.0
    public var inference = 0.0
    public var post = 0.0
}

/// Boxes with scores and classes, best first. The columns have one entry for each object.
public struct Objects: Sendable, Hashable {
    public var boxes: [Box]
    /// 0..1.
    public var scores: [Float]
    /// Indices into the classes.
    public var classIds: [Int]
    /// The same number for the same object in every frame; nil where nothing is tracked.
    public var trackIds: [Int]?

    public var count: Int { boxes.count }

    package func picked(_ rows: [Int], trackIds: [Int]?) -> Objects {
        Objects(
            boxes: boxes.taking(rows), scores: scores.taking(rows), classIds: classIds.taking(rows),
            trackIds: trackIds ?? self.trackIds?.taking(rows))
    }
}

/// Boxes, scores and classes.
public struct Detections: Sendable {
    public var info: FrameInfo
    public var objects: Objects
}

/// A point of a pose, with how sure the model is of it.
public struct Keypoint: Sendable, Hashable {
    public var x: Float
    public var y: Float
    public var score: Float

    public init(x: Float, y: Float, score: Float) {
        (self.x, self.y, self.score) = (x, y, score)
    }
}

/// Objects with keypoints.
public struct Poses: Sendable {
    public var info: FrameInfo
    public var objects: Objects
    /// Of each object one for each name of the skeleton; also outside the frame.
    public var keypoints: [[Keypoint]]
    public var skeleton: Skeleton
}

/// Objects with a mask each.
public struct Instances: Sendable {
    public var info: FrameInfo
    public var objects: Objects
    public var masks: [Mask]
}

/// A box at any angle.
public struct OrientedBox: Sendable, Hashable {
    /// Centre.
    public var x: Float
    public var y: Float
    /// The longer side.
    public var width: Float
    public var height: Float
    /// Radians from the x axis to the width, clockwise on the screen, in -pi/2 ..< pi/2.
    public var angle: Float
}

/// Objects in boxes at any angle; `objects.boxes` are the upright boxes around them, inside the frame.
public struct OrientedBoxes: Sendable {
    public var info: FrameInfo
    public var objects: Objects
    public var oriented: [OrientedBox]
}

/// The scores of all classes for the whole frame.
public struct Classification: Sendable {
    public var info: FrameInfo
    public var scores: [Float]
    /// A frame may be of several classes, or of none.
    public var isMultiLabel: Bool
    /// The score from which on `labels` names a class.
    public var threshold: Double

    /// Indices of the classes with the highest scores, best first.
    public func top(_ count: Int = 5) -> [Int] { Array(descending(scores).prefix(count)) }

    /// Names of the classes that score at least the threshold, best first.
    public var labels: [String] { top(scores.count).filter { scores[$0] >= Float(threshold) }.map { info.classes[$0] } }
}

/// The class of every pixel, row after row.
public struct LabelMap: Sendable {
    public var info: FrameInfo
    public var labels: [UInt16]
}

/// A vector of unit length for the whole frame.
public struct Embedding: Sendable {
    public var info: FrameInfo
    public var vector: [Float]
}

extension EdgeResult {
    /// The rows of a result with boxes at these places, in that order, with track ids. Other results stay as they are.
    package func picked(_ rows: [Int], trackIds: [Int]) -> EdgeResult {
        switch self {
        case .detections(var one):
            one.objects = one.objects.picked(rows, trackIds: trackIds)
            return .detections(one)
        case .poses(var one):
            one.objects = one.objects.picked(rows, trackIds: trackIds)
            one.keypoints = one.keypoints.taking(rows)
            return .poses(one)
        case .instances(var one):
            one.objects = one.objects.picked(rows, trackIds: trackIds)
            one.masks = one.masks.taking(rows)
            return .instances(one)
        case .oriented(var one):
            one.objects = one.objects.picked(rows, trackIds: trackIds)
            one.oriented = one.oriented.taking(rows)
            return .oriented(one)
        case .classification, .labels, .embedding: return self
        }
    }
}
