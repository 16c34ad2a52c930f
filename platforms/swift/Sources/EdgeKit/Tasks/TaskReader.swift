/// Thresholds of one call, instead of the contract's.
public struct Thresholds: Sendable, Hashable {
    /// Least score, 0..1.
    public var score: Double?
    /// IoU above which NMS drops a box, 0..1.
    public var iou: Double?

    public init(score: Double? = nil, iou: Double? = nil) {
        (self.score, self.iou) = (score, iou)
    }
}

/// Postprocessing of one contract.
package protocol TaskReader: Sendable {
    /// The result in original pixels from raw outputs, NCHW in the contract's order.
    func result(_ outputs: [Tensor], _ mapping: Transform, _ thresholds: Thresholds) throws -> EdgeResult
}

/// The task of a contract. Throws `EdgeKitError.contract`: unknown task or decoder, or numbers that do not fit.
package func openTask(_ contract: Contract) throws -> any TaskReader {
    switch contract.task {
    case "classify": return try Classify(contract)
    case "detect": return try Detect(contract)
    case "embed": return try Embed(contract)
    case "obb": return try Oriented(contract)
    case "pose": return try Pose(contract)
    case "segment": return try Segment(contract)
    case "semantic": return try Semantic(contract)
    default:
        let valid = ["classify", "detect", "embed", "obb", "pose", "segment", "semantic"]
        throw EdgeKitError.contract("task \(choices(contract.task, valid))")
    }
}

/// What all tasks share: the decoder of a contract, and which output has which role.
package struct Reading: Sendable {
    package let contract: Contract
    package let decoder: any Decoder
    package let frame: InputFrame
    /// Places of outputs by role, finest level first.
    package let order: [String: [Int]]

    /// `attached` is the role of heads that a task has beside boxes. Throws `EdgeKitError.contract`.
    package init(_ contract: Contract, attached: String? = nil) throws {
        self.contract = contract
        decoder = try openDecoder(contract.decoder)
        frame = InputFrame(
            height: contract.image.height, width: contract.image.width, classes: contract.classes.count,
            keypoints: contract.skeleton?.names.count ?? 0)
        func fits(_ one: any Decoder.Type) -> Bool {
            one.task == contract.task || (one.task == "detect" && attached.map { one.attachments.contains($0) } ?? false)
        }
        if !fits(type(of: decoder)) {
            let able = everyDecoder.filter(fits).map { $0.name }.sorted()
            throw EdgeKitError.contract(
                "decoder '\(contract.decoder.name)' is not one for the task '\(contract.task)'; valid: \(able.joined(separator: ", "))")
        }
        let places = contract.outputs.indices.sorted { (contract.outputs[$0].level, $0) < (contract.outputs[$1].level, $1) }
        order = Dictionary(grouping: places) { contract.outputs[$0].role }
    }

    /// Raw arrays in the contract's order, by role. Throws `EdgeKitError.contract`.
    package func heads(_ outputs: [Tensor]) throws -> Heads {
        if outputs.count != contract.outputs.count {
            let names = contract.outputs.map(\.name).joined(separator: ", ")
            throw EdgeKitError.contract("the graph gave \(outputs.count) outputs, the contract names \(names)")
        }
        for one in outputs where one.data.count != one.shape.reduce(1, *) {
            throw EdgeKitError.contract("an output of \(one.data.count) values says that its shape is \(one.shown)")
        }
        return Heads(order.mapValues { outputs.taking($0) })
    }

    /// Do something with the outputs; what a decoder cannot read is told with their names and shapes.
    package func reading<T>(_ outputs: [Tensor], _ work: (Heads) throws -> T) throws -> T {
        let heads = try heads(outputs)
        do {
            return try work(heads)
        } catch let error as Misfit {
            let shapes = zip(contract.outputs, outputs).map { "\($0.name) \($1.shown)" }.joined(separator: ", ")
            throw EdgeKitError.contract("decoder '\(type(of: decoder).name)' cannot read the outputs \(shapes): \(error.what)")
        }
    }

    /// Decoded boxes in input pixels with a score above the threshold, before NMS.
    package func candidates(_ outputs: [Tensor], above threshold: Double) throws -> Candidates {
        let found = try reading(outputs) { try decoder.run($0, frame, above: threshold) }
        for box in found.boxes where !(box.x1.isFinite && box.y1.isFinite && box.x2.isFinite && box.y2.isFinite) {
            _ = try finite(.nan)
        }
        try checkFinite(found.scores)
        return found
    }

    /// The same with what a role says of each, where the decoder did not say it itself.
    package func attaching(_ role: String, _ outputs: [Tensor], _ found: Candidates) throws -> Candidates {
        if found.attached != nil || !type(of: decoder).attachments.contains(role) { return found }
        var found = found
        found.attached = try reading(outputs) { try decoder.attach(role, $0, frame, at: found.anchors) }
        try checkFinite(found.attached!.data)
        return found
    }

    /// What is left of candidates after NMS, best first.
    package func kept(_ found: Candidates, _ thresholds: Thresholds, by suppress: (Candidates, Float) -> [Int]) throws -> Candidates {
        let post = contract.postprocess
        let limit = try checked("iou", thresholds.iou ?? post.iouThreshold, 0)
        let rows = post.nms ? suppress(found, Float(limit)) : descending(found.scores)
        return found.taking(Array(rows.prefix(post.maxDetections)))
    }

    /// The least score of a call. Throws `EdgeKitError.usage`: out of range.
    package func score(_ thresholds: Thresholds) throws -> Double {
        try checked("score", thresholds.score ?? contract.postprocess.scoreThreshold, -1)
    }

    private func checked(_ name: String, _ value: Double, _ least: Double) throws -> Double {
        if !(value >= least && value <= 1) { throw EdgeKitError.usage("\(name) must be 0..1, not \(value)") }
        return value
    }

    /// Candidates after thresholds and NMS of upright boxes, with what `role` says of each.
    package func boxes(_ outputs: [Tensor], _ thresholds: Thresholds, attached role: String? = nil) throws -> Candidates {
        let found = try candidates(outputs, above: try score(thresholds))
        let left = try kept(found, thresholds) { some, limit in
            nonMaximumSuppression(some.boxes, some.scores, some.classIds, limit, classAgnostic: contract.postprocess.classAgnostic)
        }
        return try role.map { try attaching($0, outputs, left) } ?? left
    }

    package func objects(_ kept: Candidates, _ mapping: Transform) -> Objects {
        Objects(boxes: kept.boxes.map(mapping.original), scores: kept.scores, classIds: kept.classIds, trackIds: nil)
    }

    package func info(_ mapping: Transform) -> FrameInfo { FrameInfo(size: mapping.size, classes: contract.classes) }
}
