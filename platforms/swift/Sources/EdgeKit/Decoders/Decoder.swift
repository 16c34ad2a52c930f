/// One family of heads: raw outputs become candidates in input pixels. A decoder's stored properties are its options.
package protocol Decoder: Sendable {
    static var name: String { get }
    /// The task whose results `run` gives whole.
    static var task: String { get }
    /// Roles of what other tasks have beside the boxes.
    static var attachments: [String] { get }

    /// Read and check the options of a contract; throws `Invalid`.
    init(_ options: Fields) throws

    /// Decoded boxes with a score above the threshold, before NMS. Throws `Misfit`, `EdgeKitError.engine`.
    func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates

    /// What a role says of candidates at these places in the network's own order. Throws `Misfit`.
    func attach(_ role: String, _ heads: Heads, _ frame: InputFrame, at anchors: [Int]) throws -> Attached
}

extension Decoder {
    package static var task: String { "detect" }
    package static var attachments: [String] { [] }

    package func attach(_ role: String, _ heads: Heads, _ frame: InputFrame, at anchors: [Int]) throws -> Attached {
        throw Misfit("decoder '\(Self.name)' reads no \(role)")
    }
}

/// One type for each family.
package let everyDecoder: [any Decoder.Type] = [
    AnchorFree.self, Anchors.self, CenterNet.self, Classes.self, Decoded.self, Distances.self, FastestDet.self, GridHeads.self,
    HeatMaps.self, Keypoints.self, MoveNet.self, Queries.self, SemanticHeads.self, SimCC.self, SSD.self, Vectors.self,
]

/// The decoder of a contract with its options. Throws `EdgeKitError.contract`: no such decoder, or a wrong option.
package func openDecoder(_ spec: DecoderSpec) throws -> any Decoder {
    guard let type = everyDecoder.first(where: { $0.name == spec.name }) else {
        throw EdgeKitError.contract("decoder \(choices(spec.name, everyDecoder.map { $0.name }.sorted()))")
    }
    var names: [String] = []
    do {
        let fields = try Fields(spec.options, "")
        defer { names = fields.names }
        let decoder = try type.init(fields)
        try fields.finish()
        return decoder
    } catch let error as Invalid {
        let valid = names.isEmpty ? "none" : names.joined(separator: ", ")
        throw EdgeKitError.contract("decoder '\(spec.name)': \(error); its options are: \(valid)")
    }
}

/// Heads of a shape that a decoder cannot read; becomes an error of the contract with their names.
package struct Misfit: Error {
    package let what: String
    package init(_ what: String) { self.what = what }
}

/// What a decoder is given of its contract: input size in pixels, number of classes and of keypoints.
package struct InputFrame: Sendable {
    package let height: Int
    package let width: Int
    package let classes: Int
    package let keypoints: Int
}

/// What a task has beside each box: `width` numbers a row.
package struct Attached: Sendable {
    package var data: [Float]
    package let width: Int

    package func row(_ i: Int) -> ArraySlice<Float> { data[i * width..<(i + 1) * width] }

    package func taking(_ rows: [Int]) -> Attached { Attached(data: rows.flatMap { row($0) }, width: width) }
}

/// Decoded candidates of one frame, in input pixels.
package struct Candidates: Sendable {
    package var boxes: [Box] = []
    package var scores: [Float] = []
    package var classIds: [Int] = []
    /// The place in the network's own order of predictions.
    package var anchors: [Int] = []
    package var attached: Attached?

    package var count: Int { boxes.count }

    package mutating func add(_ box: Box, _ score: Float, _ classId: Int, _ anchor: Int) {
        boxes.append(box)
        scores.append(score)
        classIds.append(classId)
        anchors.append(anchor)
    }

    /// A box from its centre and size.
    package mutating func add(x: Float, y: Float, width: Float, height: Float, _ score: Float, _ classId: Int, _ anchor: Int) {
        let (halfWidth, halfHeight) = (width * 0.5, height * 0.5)
        add(Box(x - halfWidth, y - halfHeight, x + halfWidth, y + halfHeight), score, classId, anchor)
    }

    package func taking(_ rows: [Int]) -> Candidates {
        Candidates(
            boxes: boxes.taking(rows), scores: scores.taking(rows), classIds: classIds.taking(rows),
            anchors: anchors.taking(rows), attached: attached?.taking(rows))
    }
}

/// Raw outputs by role, one tensor per level from the finest stride to the coarsest.
package struct Heads: Sendable {
    private let byRole: [String: [Tensor]]
    package init(_ byRole: [String: [Tensor]]) { self.byRole = byRole }

    package func has(_ role: String) -> Bool { byRole[role] != nil }

    /// The heads of a role, finest first. Throws `Misfit`: none has it, or another number of levels.
    package func levels(_ role: String, _ count: Int? = nil) throws -> [Tensor] {
        guard let found = byRole[role] else { throw Misfit("no output has the role '\(role)'") }
        if let count, found.count != count {
            throw Misfit("\(found.count) outputs of the role '\(role)' where \(count) are needed, one a level")
        }
        return found
    }

    /// The only head of a role.
    package func only(_ role: String) throws -> Tensor { try levels(role, 1)[0] }
}
