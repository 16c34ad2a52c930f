import Foundation

/// What a device found when it replayed the golden frames of a bundle, as `edgekit evidence add` reads it.
///
/// The record of a device says so itself and is signed by nobody: it is worth what the way it came by is.
public struct SelfCheck: Sendable, Codable, Hashable {
    public private(set) var schema = 1
    /// Name of the bundle, for people.
    public let bundle: String
    /// SHA-256 of what the bundle's files are: which bundle this is about.
    public let files: String
    /// UTC, ISO 8601.
    public let time: String
    public let edgekit: String
    public private(set) var platform = "swift"
    public let machine: String
    public let engine: String
    public private(set) var word = "executed"
    public private(set) var operators: [String: Int] = [:]
    /// How many were replayed.
    public let frames: Int
    /// With what the `bundle` found when it was converted, or, where it never ran, with its `source`.
    public let compared: String
    /// Whether all frames agree.
    public let agreed: Bool
    /// In what they do not.
    public let differences: [String]

    /// The record as a file for `edgekit evidence add BUNDLE RECORD.json`.
    public var json: Data {
        get throws {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
            return try encoder.encode(self)
        }
    }
}

/// Of this package; records say which wrote them.
package let libraryVersion = "0.1.0"
private let folder = "golden"
private let file = "\(folder)/frames.json"

/// Throws `EdgeKitError.usage`: no golden frames. `.bundle`: they are not valid. `.engine`: the engine failed.
package func selfCheck(
    _ bundle: EdgeBundle, _ task: any TaskReader, _ preprocessor: Preprocessor, _ session: any Session
) async throws -> SelfCheck {
    let golden = try GoldenFrames(bundle)
    let contract = bundle.manifest.contract
    let mapping = Transform(whole: contract.image)
    let thresholds = Thresholds(score: golden.score, iou: golden.iou)
    var differences: [String] = []
    for frame in golden.frames {
        let outputs = try await session.run(preprocessor.normalise(try golden.picture(frame, bundle).data))
        let found = try task.result(outputs, mapping, thresholds)
        var said: [String]
        if let bundled = frame.bundle {
            said = frame.outputsApart(contract.outputs.map(\.name), outputs) + (try bundled.apart(found, .same, golden.score))
        } else {
            said = try frame.source.apart(found, .source, golden.score)
        }
        differences += said.map { "\(frame.image): \($0)" }
    }
    return SelfCheck(
        bundle: bundle.folder.lastPathComponent, files: filesHash(bundle.manifest), time: now(), edgekit: libraryVersion,
        machine: "\(ProcessInfo.processInfo.operatingSystemVersionString), \(session.placement.unit)",
        engine: session.placement.engine, frames: golden.frames.count, compared: golden.frames[0].bundle == nil ? "source" : "bundle",
        agreed: differences.isEmpty, differences: differences)
}

private func now() -> String {
    let format = ISO8601DateFormatter()
    format.formatOptions = [.withFullDate, .withTime, .withColonSeparatorInTime, .withDashSeparatorInDate]
    return format.string(from: Date()) + "+00:00"
}

/// SHA-256 of the lines `SHA256 PATH` of all files of a bundle, sorted: what amendments do not change.
private func filesHash(_ manifest: Manifest) -> String {
    sha256(manifest.files.map { "\($0.sha256) \($0.path)\n" }.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }.joined())
}

/// How far two results of one picture may be apart and still agree; see `golden_frames.py` of edgekit.
private struct Margins {
    let score: Float
    let iou: Float
    let keypoint: Float
    let pixels: Double
    let cosine: Double

    /// Between two runs of one bundle: engines order sums differently, and round INT8 differently on other instructions.
    static let same = Margins(score: 0.05, iou: 0.9, keypoint: 0.03, pixels: 0.99, cosine: 0.99)
    /// Between a bundle that has never run and its source, which quantisation lies between, too.
    static let source = Margins(score: 0.25, iou: 0.7, keypoint: 0.1, pixels: 0.95, cosine: 0.9)
}

/// Pictures, and what the source and the bundle found in them when it was converted.
private struct GoldenFrames {
    let score: Double
    let iou: Double
    let frames: [GoldenFrame]

    init(_ bundle: EdgeBundle) throws {
        let name = bundle.manifest.name
        guard bundle.lists(file) else { throw EdgeKitError.usage("\(name): has no golden frames; convert the model again with --data") }
        do {
            self = try GoldenFrames.read(try JSON(parsing: bundle.read(file)), "")
        } catch let error as Invalid {
            throw EdgeKitError.bundle(.invalid, "\(name): the golden frames are not valid (\(error)); convert the model again")
        } catch let error as MalformedJSON {
            throw EdgeKitError.bundle(.invalid, "\(name): the golden frames are not valid (\(error)); convert the model again")
        }
        if frames.isEmpty { throw EdgeKitError.usage("\(name): has no golden frames; convert the model again with --data") }
    }

    private init(_ score: Double, _ iou: Double, _ frames: [GoldenFrame]) { (self.score, self.iou, self.frames) = (score, iou, frames) }

    private static let read = Read.structure { fields in
        _ = try fields.maybe("schema", Read.int(from: 1, to: 1))
        for name in ["word", "engine"] { _ = try fields.read(name, Read.string) }
        return GoldenFrames(
            try fields.read("score", Read.float), try fields.read("iou", Read.float), try fields.read("frames", Read.list(GoldenFrame.read)))
    }

    func picture(_ frame: GoldenFrame, _ bundle: EdgeBundle) throws -> Pixels {
        let (name, rule) = (bundle.manifest.name, bundle.manifest.contract.image)
        let path = "\(folder)/\(frame.image)"
        guard bundle.lists(path) else {
            throw EdgeKitError.bundle(.invalid, "\(name): the picture '\(frame.image)' is not one of the bundle's files; convert it again")
        }
        let picture = try PNG.read(try bundle.read(path), name: frame.image)
        if picture.width != rule.width || picture.height != rule.height {
            throw EdgeKitError.bundle(
                .invalid, "\(name): \(frame.image) is \(picture.width)x\(picture.height), and the input \(rule.width)x\(rule.height); convert it again")
        }
        return picture
    }
}

private struct GoldenFrame {
    let image: String
    let source: ResultDocument
    let bundle: ResultDocument?
    let outputs: [(name: String, step: Int, values: [Double])]

    static let read = Read.structure { fields in
        GoldenFrame(
            image: try fields.read("image", Read.string), source: try fields.read("source", ResultDocument.read),
            bundle: try fields.read("bundle", Read.nullable(ResultDocument.read), or: nil),
            outputs: try fields.read("outputs", Read.list(output), or: []))
    }

    private static let output = Read.structure { fields in
        (
            name: try fields.read("name", Read.string), step: try fields.read("step", Read.int(from: 1)),
            values: try fields.read("values", Read.list(Read.float, most: 256))
        )
    }

    /// The raw outputs whose values are not those of the golden frame, a sentence each.
    func outputsApart(_ names: [String], _ found: [Tensor]) -> [String] {
        outputs.compactMap { output in
            let data = names.firstIndex(of: output.name).map { found[$0].data } ?? []
            let mine = stride(from: 0, to: data.count, by: output.step).map { Double(data[$0]) }
            let alike = mine.count == output.values.count ? cosine(output.values, mine) : -1
            return alike >= Margins.same.cosine ? nil : "output '\(output.name)': cosine \(shown(alike, 4))"
        }
    }
}

private func cosine(_ one: [Double], _ other: [Double]) -> Double {
    let product = zip(one, other).reduce(0) { $0 + $1.0 * $1.1 }
    let (first, second) = (one.reduce(0) { $0 + $1 * $1 }, other.reduce(0) { $0 + $1 * $1 })
    return first == 0 && second == 0 ? 1 : product / (first * second).squareRoot()
}

private func shown(_ value: some BinaryFloatingPoint, _ digits: Int) -> String { String(format: "%.\(digits)f", Double(value)) }

/// The document of a result; which fields are there depends on its kind.
private struct ResultDocument {
    let size: Size
    let detections: [Row]?
    let scores: [Double]?
    let classIds: [Int]?
    let lengths: [Int]?
    let vector: [Double]?

    static let read = Read.structure { fields in
        _ = try fields.maybe("image", Read.string)
        for name in ["skeleton", "shares"] { _ = try fields.maybe(name, Read.object) }
        _ = try fields.maybe("top", Read.list(Read.object))
        _ = try fields.maybe("multi_label", Read.bool)
        _ = try fields.maybe("threshold", Read.float)
        return ResultDocument(
            size: Size(width: try fields.read("width", Read.int(from: 0, to: 1 << 20)), height: try fields.read("height", Read.int(from: 0, to: 1 << 20))),
            detections: try fields.maybe("detections", Read.list(Row.read)),
            scores: try fields.maybe("scores", Read.list(Read.float)),
            classIds: try fields.maybe("class_ids", Read.list(Read.int)),
            lengths: try fields.maybe("lengths", Read.list(Read.int(from: 0, to: 1 << 40), most: 1 << 20)),
            vector: try fields.maybe("vector", Read.list(Read.float)))
    }

    struct Row {
        let box: [Double]
        let score: Double
        let classId: Int
        let keypoints: [[Double]]?
        let counts: String?
        let oriented: [Double]?

        static let read = Read.structure { fields in
            _ = try fields.maybe("name", Read.string)
            _ = try fields.maybe("track_id", Read.int)
            return Row(
                box: try fields.read("box", Read.list(of: 4, Read.float)), score: try fields.read("score", Read.float),
                classId: try fields.read("class_id", Read.int),
                keypoints: try fields.maybe("keypoints", Read.list(Read.list(of: 3, Read.float))),
                counts: try fields.maybe("mask", mask),
                oriented: try fields.maybe("oriented", Read.list(of: 5, Read.float)))
        }

        private static let mask = Read.structure { fields in
            _ = try fields.read("size", Read.list(of: 2, Read.int))
            return try fields.read("counts", Read.string)
        }
    }

    /// In what another result of the picture differs by more than the margins, a sentence each.
    func apart(_ found: EdgeResult, _ margins: Margins, _ threshold: Double) throws -> [String] {
        switch found {
        case .classification(let one):
            guard let scores, scores.count == one.scores.count, !scores.isEmpty else { break }
            let worst = scores.indices.max { abs(scores[$0] - Double(one.scores[$0])) < abs(scores[$1] - Double(one.scores[$1])) }!
            if abs(scores[worst] - Double(one.scores[worst])) <= Double(margins.score) { return [] }
            return ["\(one.info.classes[worst]) has \(shown(one.scores[worst], 3)), not \(shown(scores[worst], 3))"]
        case .labels(let one):
            guard let classIds, let lengths, classIds.count == lengths.count, lengths.reduce(0, +) == one.labels.count else { break }
            let before = zip(classIds, lengths).flatMap { Array(repeating: $0, count: $1) }
            let same = zip(before, one.labels).reduce(0) { $0 + ($1.0 == Int($1.1) ? 1 : 0) }
            let share = Double(same) / Double(one.labels.count)
            return share >= margins.pixels ? [] : ["\(shown(100 * share, 1))% of the pixels have the same class"]
        case .embedding(let one):
            guard let vector, vector.count == one.vector.count else { break }
            let alike = cosine(vector, one.vector.map(Double.init))
            return alike >= margins.cosine ? [] : ["the cosine of the vectors is \(shown(alike, 3))"]
        case .detections, .poses, .instances, .oriented:
            guard let detections else { break }
            let (before, now) = (try detections.map { try One($0, size) }, One.all(found))
            let (least, classes) = (Float(threshold) + margins.score, found.info.classes)
            return One.alone(before, now, margins, least, classes).map { "\($0) is missing" }
                + One.alone(now, before, margins, least, classes).map { "\($0) is new" }
        }
        throw EdgeKitError.bundle(.invalid, "the golden frames are of another task than the bundle; convert the model again")
    }
}

/// One object of a result.
private struct One {
    let box: Box
    let score: Float
    let classId: Int
    var keypoints: [SIMD2<Float>]?
    var mask: Mask?
    var oriented: OrientedBox?

    init(_ row: ResultDocument.Row, _ size: Size) throws {
        let box = row.box.map { Float($0) }
        self.box = Box(box[0], box[1], box[2], box[3])
        score = Float(row.score)
        classId = row.classId
        keypoints = row.keypoints?.map { SIMD2(Float($0[0]), Float($0[1])) }
        mask = try row.counts.map { try RLE(size: size, counts: $0).mask() }
        oriented = row.oriented.map { values in
            let v = values.map { Float($0) }
            return OrientedBox(x: v[0], y: v[1], width: v[2], height: v[3], angle: v[4])
        }
    }

    private init(_ objects: Objects, _ i: Int) {
        (box, score, classId) = (objects.boxes[i], objects.scores[i], objects.classIds[i])
    }

    static func all(_ result: EdgeResult) -> [One] {
        let objects = result.objects!
        return objects.boxes.indices.map { i in
            var one = One(objects, i)
            switch result {
            case .poses(let poses): one.keypoints = poses.keypoints[i].map { SIMD2($0.x, $0.y) }
            case .instances(let instances): one.mask = instances.masks[i]
            case .oriented(let boxes): one.oriented = boxes.oriented[i]
            default: break
            }
            return one
        }
    }

    /// The certain objects of one result that have no partner in the other.
    static func alone(_ some: [One], _ others: [One], _ margins: Margins, _ least: Float, _ classes: [String]) -> [String] {
        some.filter { one in one.score >= least && !others.contains { one.isLike($0, margins) } }.map { one in
            let name = classes.indices.contains(one.classId) ? classes[one.classId] : "class \(one.classId)"
            let box = [one.box.x1, one.box.y1, one.box.x2, one.box.y2].map { shown($0, 0) }.joined(separator: ", ")
            return "\(name) \(shown(one.score, 3)) at [\(box)]"
        }
    }

    private func isLike(_ other: One, _ margins: Margins) -> Bool {
        if classId != other.classId || abs(score - other.score) > margins.score { return false }
        if boxIoU([box], [other.box])[0] < margins.iou { return false }
        if let oriented, let theirs = other.oriented { return oriented.isLike(theirs, margins) }
        if let keypoints, let theirs = other.keypoints { return keypointsAway(keypoints, theirs) <= margins.keypoint }
        if let mask, let theirs = other.mask { return mask.iou(theirs) >= margins.iou - 0.05 }
        return true
    }

    /// Mean distance of keypoints in sizes of the box.
    private func keypointsAway(_ mine: [SIMD2<Float>], _ theirs: [SIMD2<Float>]) -> Float {
        guard mine.count == theirs.count else { return .infinity }
        let size = (max(box.width, 1) * max(box.height, 1)).squareRoot()
        return zip(mine, theirs).reduce(0) { $0 + hypot($1.0.x - $1.1.x, $1.0.y - $1.1.y) } / Float(mine.count) / size
    }
}

extension OrientedBox {
    /// Whether two oriented boxes have nearly the same corners: all within the share of the shorter side that the IoU leaves.
    fileprivate func isLike(_ other: OrientedBox, _ margins: Margins) -> Bool {
        let most = (1 - margins.iou) / 2 * max(min(width, height), 1)
        return corners.allSatisfy { mine in other.corners.contains { hypot(mine.x - $0.x, mine.y - $0.y) <= most } }
    }
}

extension Mask {
    /// Intersection over union; 1 of two empty masks.
    fileprivate func iou(_ other: Mask) -> Float {
        let (mine, theirs) = (area, other.area)
        if mine == 0 && theirs == 0 { return 1 }
        var shared = 0
        for y in max(top, other.top)..<max(max(top, other.top), min(top + height, other.top + other.height)) {
            for x in max(left, other.left)..<max(max(left, other.left), min(left + width, other.left + other.width)) {
                let (a, b) = (data[(y - top) * width + x - left], other.data[(y - other.top) * other.width + x - other.left])
                if a != 0 && b != 0 { shared += 1 }
            }
        }
        return Float(shared) / Float(mine + theirs - shared)
    }
}
