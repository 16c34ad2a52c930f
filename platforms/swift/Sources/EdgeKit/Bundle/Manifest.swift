/// Everything a bundle says about itself. It is the only source of layouts, names, shapes, classes and thresholds.
public struct Manifest: Sendable {
    /// The newest manifest layout that this package reads.
    public static let schema = 1

    /// Version of edgekit that wrote the bundle.
    public let edgekit: String
    public let name: String
    public let target: String
    public let precision: String
    public let engine: String
    public let graphs: [Graph]
    public let contract: Contract
    /// What was measured when the bundle was converted; nil where nothing was.
    public let evidence: Evidence?
    /// Whether that evidence passed its gate.
    public let proven: Bool
    /// Whether the bundle takes further batches and input sizes. This package runs the contract's.
    package let hasVariants: Bool
    public let files: [File]
    package let digest: String

    package static let fileName = "manifest.json"

    package static let read = Read.structure { fields in try Manifest(fields) }

    private init(_ fields: Fields) throws {
        _ = try fields.read("schema", Read.int, or: Manifest.schema)
        edgekit = try fields.read("edgekit", Read.string)
        name = try fields.read("name", Read.string)
        target = try fields.read("target", Read.string)
        precision = try fields.read("precision", Read.string)
        engine = try fields.read("engine", Read.string)
        graphs = try fields.read("graphs", Read.list(Graph.read))
        contract = try fields.read("contract", Contract.read)
        _ = try fields.read("origin", Unread.origin)
        _ = try fields.read("toolchain", Read.dict(Read.string))
        _ = try fields.maybe("options", Read.object)
        _ = try fields.maybe("calibration", Read.nullable(Unread.calibration))
        evidence = try fields.read("evidence", Read.nullable(Evidence.read), or: nil)
        proven = try fields.read("proven", Read.bool, or: false)
        hasVariants = try fields.maybe("variants", Read.list(Unread.variant)) != nil
        files = try fields.read("files", Read.list(File.read), or: [])
        digest = try fields.read("digest", Read.string, or: "")
        _ = try fields.maybe("amendments", Read.list(Unread.amendment))
        _ = try fields.maybe("executions", Read.list(Unread.execution))
    }

    /// What the bundle is, in a few words: `shapes onnx int8, detect, 7 classes, 256x256, proven`.
    public var summary: String {
        let classes = contract.classes.isEmpty ? "" : "\(contract.classes.count) classes, "
        let (height, width) = (contract.image.height, contract.image.width)
        return "\(name) \(target) \(precision), \(contract.task), \(classes)\(height)x\(width), \(proven ? "proven" : "unproven")"
    }

    /// A file of a bundle: relative path with forward slashes, size in bytes, SHA-256.
    public struct File: Sendable, Hashable {
        public let path: String
        public let bytes: Int
        public let sha256: String

        package static let read = Read.structure { fields in
            File(
                path: try fields.read("path", Read.string),
                bytes: try fields.read("bytes", Read.int),
                sha256: try fields.read("sha256", Read.string))
        }
    }
}

/// One network of a bundle: its files (the first is the one an engine opens), inputs and outputs.
public struct Graph: Sendable {
    public let name: String
    public let files: [String]
    public let inputs: [TensorSpec]
    public let outputs: [TensorSpec]
    /// The engine of this graph where it is not the bundle's.
    public let engine: String?

    package static let read = Read.structure { fields in
        let graph = Graph(
            name: try fields.read("name", Read.string, or: "model"),
            files: try fields.read("files", Read.list(Read.string)),
            inputs: try fields.read("inputs", Read.list(TensorSpec.read)),
            outputs: try fields.read("outputs", Read.list(TensorSpec.read)),
            engine: try fields.maybe("engine", Read.string))
        _ = try fields.maybe("report", Read.dict(Unread.stringOrNumber))
        _ = try fields.maybe("speed", Unread.speed)
        if graph.files.isEmpty || graph.inputs.isEmpty || graph.outputs.isEmpty {
            throw Invalid("graph '\(graph.name)' must have files, inputs and outputs", fields.path)
        }
        return graph
    }
}

/// An input or output of a file; -1 in its shape where any size goes.
public struct TensorSpec: Sendable {
    public enum Layout: String, Sendable, CaseIterable { case nchw, nhwc }

    public let name: String
    public let shape: [Int]
    public let dtype: String
    public let layout: Layout

    package static let read = Read.structure { fields in
        let spec = TensorSpec(
            name: try fields.read("name", Read.string),
            shape: try fields.read("shape", Read.list(Read.int)),
            dtype: try fields.read("dtype", Read.string, or: "float32"),
            layout: try fields.read("layout", Read.word(), or: .nchw))
        _ = try fields.maybe("scale", Read.float)
        _ = try fields.maybe("zero_point", Read.int)
        return spec
    }
}

/// The measured evidence that a bundle gives its source's results, in short.
public struct Evidence: Sendable {
    /// `executed`, `emulated`, `interpreted`, `reference` or `compiled`: exactly what ran.
    public let word: String
    /// The engine that it ran with.
    public let engine: String
    /// Photographs that were looked at.
    public let images: Int
    public let passed: Bool
    /// In what the gate was not passed.
    public let failures: [String]

    package static let read = Read.structure { fields in
        let found = Evidence(
            word: try fields.read("word", Unread.word),
            engine: try fields.read("engine", Read.string),
            images: try fields.read("images", Read.int),
            passed: try fields.read("passed", Read.bool),
            failures: try fields.read("failures", Read.list(Read.string), or: []))
        try Unread.restOfEvidence(fields)
        return found
    }
}

/// Parts of a manifest that are checked, because a manifest is valid as a whole or not at all, and not kept.
private enum Unread {
    static let word = Read.word("executed", "emulated", "interpreted", "reference", "compiled")
    static let number = Read.int(from: 0, to: Int(Int32.max))

    static let stringOrNumber: Reader<Void> = { node, path in
        switch node {
        case .string, .number: return
        default: throw Invalid("Expected `str | int | float`", path)
        }
    }

    static let origin = Read.structure { fields in
        for name in ["kind", "name", "sha256"] { _ = try fields.read(name, Read.string) }
        for name in ["notes", "cut"] { _ = try fields.maybe(name, Read.list(Read.string)) }
        _ = try fields.maybe("rewrites", Read.dict(Read.int))
    }

    static let calibration = Read.structure { fields in
        for name in ["count", "seed"] { _ = try fields.read(name, Read.int) }
        for name in ["method", "sha256"] { _ = try fields.read(name, Read.string) }
        _ = try fields.maybe("held", Read.int)
        _ = try fields.maybe("images", Read.list(Read.string))
    }

    static let speed = Read.structure { fields in
        _ = try fields.read("ratio", Read.positive)
        for name in ["low", "high"] { _ = try fields.read(name, Read.float) }
        for name in ["rounds", "threads"] { _ = try fields.read(name, Read.int) }
        for name in ["of", "instructions", "engine"] { _ = try fields.read(name, Read.string) }
    }

    static func restOfEvidence(_ fields: Fields) throws {
        _ = try fields.read("views", Read.int)
        for name in ["images_sha256", "reference"] { _ = try fields.read(name, Read.string) }
        _ = try fields.read("compared", Read.word("detections", "candidates", "texts", "nothing"))
        _ = try fields.read("decoded", Read.nullable(agreement))
        _ = try fields.read("outputs", Read.list(output))
        _ = try fields.read("gate", gate)
        _ = try fields.maybe("placement", Read.dict(Read.int))
        _ = try fields.maybe("recipe", Read.string)
        _ = try fields.maybe("recipes", Read.dict(Read.float))
        _ = try fields.maybe("budget", Read.nullable(budget))
        _ = try fields.maybe("texts", Read.nullable(texts))
        _ = try fields.maybe("accuracy", accuracy)
        _ = try fields.maybe("control", control)
    }

    static let output = Read.structure { fields in
        _ = try fields.read("name", Read.string)
        for name in ["cosine", "max_error", "mean_error"] { _ = try fields.read(name, Read.float) }
    }

    static let gate = Read.structure { fields in
        for name in ["iou", "matched", "score_drift"] { _ = try fields.read(name, Read.float) }
        for name in ["extra", "small", "medium", "large", "angle"] { _ = try fields.maybe(name, Read.float) }
    }

    static let agreement = Read.structure { fields in
        for name in [
            "score_floor", "iou", "matched", "score_drift", "score_drift_max", "extra", "top_score", "top_score_source",
        ] { _ = try fields.read(name, Read.float) }
        for name in ["detections", "class_flips"] { _ = try fields.read(name, Read.int) }
        _ = try fields.read("matched_at", Read.dict(Read.float))
        _ = try fields.maybe("measure", Read.string)
        for name in ["pixels", "miou", "angle"] { _ = try fields.maybe(name, Read.float) }
        _ = try fields.maybe("by_size", Read.dict(bySize))
    }

    static let bySize = Read.structure { fields in
        _ = try fields.read("detections", number)
        _ = try fields.read("matched", Read.float)
    }

    static let texts = Read.structure { fields in
        _ = try fields.read("measure", Read.word("tokens", "decisions"))
        for name in ["positions", "answers"] { _ = try fields.read(name, Read.int) }
        for name in ["matched", "score_drift", "score_drift_max", "identical"] { _ = try fields.read(name, Read.float) }
    }

    static let budget = Read.structure { fields in
        for name in ["max_drop", "before", "drop", "milliseconds_before", "milliseconds"] { _ = try fields.read(name, Read.float) }
        for name in ["bytes_before", "bytes"] { _ = try fields.read(name, Read.int) }
        _ = try fields.read("by", Read.string)
        _ = try fields.read("kept", Read.bool)
        _ = try fields.read("floats", Read.list(Read.string))
    }

    static let accuracy = Read.structure { fields in
        _ = try fields.read("measure", Read.string)
        for name in ["source", "bundle"] { _ = try fields.read(name, Read.float) }
    }

    static let control = Read.structure { fields in
        _ = try fields.read("damage", Read.string)
        _ = try fields.read("failures", Read.list(Read.string))
    }

    static let variant = Read.structure { fields in
        let batch = try fields.read("batch", Read.int(from: 1, to: 1 << 10))
        let size = try fields.read("size", Read.list(of: 2, Read.int))
        _ = try fields.maybe("evidence", Read.nullable(Evidence.read))
        if size.min()! < 1 || size.max()! > ImageRule.largest || batch * size[0] * size[1] > ImageRule.mostPixels {
            throw Invalid("a batch of \(batch) at \(size) must have at most \(ImageRule.mostPixels) pixels in all", fields.path)
        }
    }

    static let scalar: Reader<Void> = { node, path in
        switch node {
        case .bool, .string, .number: return
        default: throw Invalid("Expected `bool | int | float | str`", path)
        }
    }

    static let amendment = Read.structure { fields in
        _ = try fields.read("time", Read.string)
        _ = try fields.read("changes", Read.list(change))
    }

    static let change = Read.structure { fields in
        _ = try fields.read("name", Read.string)
        _ = try fields.read("before", Read.nullable(scalar))
        _ = try fields.read("after", scalar)
    }

    static let execution = Read.structure { fields in
        for name in ["time", "platform", "machine", "engine", "compared"] { _ = try fields.read(name, Read.string) }
        _ = try fields.read("word", word)
        _ = try fields.read("frames", Read.int)
    }
}
