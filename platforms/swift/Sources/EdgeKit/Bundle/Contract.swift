/// What goes into a graph and what comes out of it.
public struct Contract: Sendable {
    /// `detect`, `pose`, `segment`, `obb`, `classify`, `semantic` or `embed`.
    public let task: String
    public let image: ImageRule
    public let classes: [String]
    public let decoder: DecoderSpec
    public let outputs: [OutputSpec]
    public let postprocess: Postprocess
    /// Of poses.
    public let skeleton: Skeleton?
    /// Options of trackers that were fitted to this model.
    public let trackerOptions: [String: OptionValue]
    /// What a vision-language model is beyond its image rule; see `VisionLanguage`.
    package let language: Language?

    package static let read = Read.structure { fields in
        Contract(
            task: try fields.read("task", Read.string, or: "detect"),
            image: try fields.read("image", ImageRule.read),
            classes: try fields.read("classes", Read.list(className, most: 1 << 17), or: []),
            decoder: try fields.read("decoder", DecoderSpec.read, or: DecoderSpec(name: "", options: .object(JSON.Object()))),
            outputs: try fields.read("outputs", Read.list(OutputSpec.read), or: []),
            postprocess: try fields.read("postprocess", Postprocess.read, or: Postprocess()),
            skeleton: try fields.read("skeleton", Read.nullable(Skeleton.read), or: nil),
            trackerOptions: try fields.read("tracker_options", Read.dict(OptionValue.read), or: [:]),
            language: try fields.read("language", Read.nullable(Language.read), or: nil))
    }

    private static let className: Reader<String> = { node, path in
        let name = try Read.string(node, path)
        if name.unicodeScalars.count > 1000 { throw Invalid("Expected `str` of length <= 1000", path) }
        return name
    }
}

/// What a vision-language model is beyond its image rule.
package struct Language: Sendable {
    let family: String
    /// Tokens that an image becomes, and the id that stands for each.
    let queries: Int
    let image: Int
    let pad: Int
    let start: Int
    let positions: Int
    let eos: [Int]
    let layers: Int
    let heads: Int
    let headSize: Int
    let width: Int
    let prompts: [String: String]
    let generation: GenerationOptions

    var isRetrieval: Bool { family == "retrieval" }

    static let read = Read.structure { fields in
        let number = Read.int(from: 0, to: Int(Int32.max))
        let language = Language(
            family: try fields.read("family", Read.word("opt", "t5", "retrieval")),
            queries: try fields.read("queries", Read.int(from: 1, to: 1 << 16)),
            image: try fields.read("image", number, or: 0),
            pad: try fields.read("pad", number, or: 0),
            start: try fields.read("start", number, or: 0),
            positions: try fields.read("positions", number, or: 0),
            eos: try fields.read("eos", Read.list(number, most: 1 << 10), or: []),
            layers: try fields.read("layers", Read.int(from: 0, to: 1 << 10), or: 0),
            heads: try fields.read("heads", Read.int(from: 0, to: 1 << 16), or: 0),
            headSize: try fields.read("head_size", Read.int(from: 0, to: 1 << 16), or: 0),
            width: try fields.read("width", Read.int(from: 0, to: 1 << 16), or: 0),
            prompts: try fields.read("prompts", Read.dict(Read.string), or: [:]),
            generation: try fields.read("generation", GenerationOptions.read, or: GenerationOptions()))
        if language.layers * language.heads * language.headSize > 1 << 22 {
            let product = language.layers * language.heads * language.headSize
            throw Invalid("layers, heads and head_size make \(product) numbers a token, above the \(1 << 22) of a cache", fields.path)
        }
        return language
    }
}

/// How a photograph becomes the input tensor: `(level * scale - mean) / std` after resizing.
public struct ImageRule: Sendable, Hashable {
    public enum Resize: String, Sendable, CaseIterable { case letterbox, stretch, crop }
    public enum Color: String, Sendable, CaseIterable { case rgb, bgr }
    public enum Interpolation: String, Sendable, CaseIterable { case linear, bilinear, bicubic }
    public enum Align: String, Sendable, CaseIterable { case center, corner }

    public let height: Int
    public let width: Int
    public let resize: Resize
    public let color: Color
    public let scale: Double
    public let mean: [Double]
    public let std: [Double]
    /// Levels around a letterboxed picture, three in the order of `color`.
    public let pad: [Int]
    public let crop: Double
    public let interpolation: Interpolation
    public let align: Align

    /// The longest side of an input in pixels, and the most pixels.
    package static let largest = 1 << 14
    package static let mostPixels = 1 << 26

    package static let read = Read.structure { fields in try ImageRule(fields) }

    private init(_ fields: Fields) throws {
        let size = try fields.read("size", Read.list(of: 2, Read.int))
        (height, width) = (size[0], size[1])
        resize = try fields.read("resize", Read.word(), or: .letterbox)
        color = try fields.read("color", Read.word(), or: .rgb)
        scale = try fields.read("scale", Read.float, or: 1 / 255)
        mean = try fields.read("mean", Read.list(of: 3, Read.float), or: [0, 0, 0])
        std = try fields.read("std", Read.list(of: 3, Read.float), or: [1, 1, 1])
        pad = try fields.read("pad", ImageRule.levels, or: [114, 114, 114])
        crop = try fields.read("crop", Read.float, or: 1)
        interpolation = try fields.read("interpolation", Read.word(), or: .linear)
        align = try fields.read("align", Read.word(), or: .center)
        if let problem { throw Invalid(problem, fields.path) }
    }

    private static let levels: Reader<[Int]> = { node, path in
        if case .array = node { return try Read.list(of: 3, Read.int)(node, path) }
        let level = try Read.int(node, path)
        return [level, level, level]
    }

    private var problem: String? {
        if min(height, width) < 1 { return "size must be two positive numbers (height, width), not [\(height), \(width)]" }
        if max(height, width) > ImageRule.largest || height * width > ImageRule.mostPixels {
            return "size must be at most \(ImageRule.largest) a side and \(ImageRule.mostPixels) pixels in all, not [\(height), \(width)]"
        }
        if !pad.allSatisfy({ (0...255).contains($0) }) { return "pad must be 0..255, not \(pad)" }
        if std.min()! <= 0 { return "std must be positive, not \(std)" }
        if scale <= 0 { return "scale must be positive, not \(scale)" }
        if !(crop > 0 && crop <= 1) { return "crop must be above 0 and at most 1, not \(crop)" }
        if crop < 1 && resize != .crop { return "crop must be 1 with resize: \(resize.rawValue), not \(crop)" }
        if align != .center && resize != .letterbox {
            return "align must be left out with resize: \(resize.rawValue), not \(align.rawValue): only a letterbox has padding"
        }
        return nil
    }
}

/// Which decoder turns raw heads into candidates, with its numbers.
public struct DecoderSpec: Sendable {
    public let name: String
    package let options: JSON

    package static let read = Read.structure { fields in
        DecoderSpec(
            name: try fields.read("name", Read.string),
            options: try fields.read("options", Read.object, or: .object(JSON.Object())))
    }
}

/// One output of the graph: `role` is the decoder's word for it, `level` counts strides from the finest.
public struct OutputSpec: Sendable, Hashable {
    public let name: String
    public let role: String
    public let level: Int

    package static let read = Read.structure { fields in
        OutputSpec(
            name: try fields.read("name", Read.string),
            role: try fields.read("role", Read.string),
            level: try fields.read("level", Read.int, or: 0))
    }
}

/// Defaults of what happens after decoding.
public struct Postprocess: Sendable, Hashable {
    public let scoreThreshold: Double
    public let iouThreshold: Double
    public let maxDetections: Int
    public let classAgnostic: Bool
    public let nms: Bool

    init() { (scoreThreshold, iouThreshold, maxDetections, classAgnostic, nms) = (0.25, 0.45, 300, false, true) }

    package static let read = Read.structure { fields in try Postprocess(fields) }

    private init(_ fields: Fields) throws {
        scoreThreshold = try fields.read("score_threshold", Read.float, or: 0.25)
        iouThreshold = try fields.read("iou_threshold", Read.float, or: 0.45)
        maxDetections = try fields.read("max_detections", Read.int, or: 300)
        classAgnostic = try fields.read("class_agnostic", Read.bool, or: false)
        nms = try fields.read("nms", Read.bool, or: true)
        for (name, value) in [("score", scoreThreshold), ("iou", iouThreshold)] where !(value >= 0 && value <= 1) {
            throw Invalid("\(name) must be 0..1, not \(value)", fields.path)
        }
        if !(1...1_000_000).contains(maxDetections) {
            throw Invalid("max_detections must be 1..1000000, not \(maxDetections)", fields.path)
        }
    }
}

/// The keypoints of a pose: names, pairs joined by a line, and how exactly each can be placed.
public struct Skeleton: Sendable, Hashable {
    public let names: [String]
    /// Pairs of indices.
    public let edges: [[Int]]
    /// Spread of annotators in sizes of the object; one for each name, or none.
    public let sigmas: [Double]

    public init(names: [String], edges: [[Int]] = [], sigmas: [Double] = []) {
        (self.names, self.edges, self.sigmas) = (names, edges, sigmas)
    }

    package static let read = Read.structure { fields in
        let found = Skeleton(
            names: try fields.read("names", Read.list(Read.string, most: 1 << 10)),
            edges: try fields.read("edges", Read.list(Read.list(of: 2, Read.int), most: 1 << 16), or: []),
            sigmas: try fields.read("sigmas", Read.list(Read.float), or: []))
        let (names, sigmas) = (found.names, found.sigmas)
        if names.isEmpty { throw Invalid("names must name at least one keypoint", fields.path) }
        for edge in found.edges where !(edge.min()! >= 0 && edge.max()! < names.count && edge[0] != edge[1]) {
            throw Invalid("edges must be pairs of keypoints 0..\(names.count - 1), not \(edge)", fields.path)
        }
        if !sigmas.isEmpty && (sigmas.count != names.count || sigmas.min()! <= 0) {
            throw Invalid("sigmas must be \(names.count) positive numbers, not \(sigmas)", fields.path)
        }
        return found
    }
}

/// The value of an option of a tracker.
public enum OptionValue: Sendable, Hashable {
    case bool(Bool)
    case number(Double)
    case word(String)

    package static let read: Reader<OptionValue> = { node, path in
        switch node {
        case .bool(let value): return .bool(value)
        case .number(let number): return .number(number.value)
        case .string(let text): return .word(text)
        default: throw Invalid("Expected `bool | int | float | str`", path)
        }
    }
}
