/// Semantic segmentation heads: logits of every class for every cell of a grid.
package struct SemanticHeads: Decoder {
    package static let name = "semantic"
    package static let task = "semantic"

    private let isSigmoid: Bool

    package init(_ options: Fields) throws {
        isSigmoid = try options.read("score", Read.word("softmax", "sigmoid"), or: "softmax") == "sigmoid"
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        throw EdgeKitError.contract("decoder 'semantic' gives a label map and no boxes; its task is semantic")
    }

    /// The logits of each class, those of the background 0 where it has no channel. Throws `Misfit`, `EdgeKitError.engine`.
    package func logits(_ heads: Heads, _ classes: Int) throws -> [Plane] {
        let head = try heads.only("logits")
        let background = isSigmoid ? 1 : 0
        let channels = classes - background
        try Grid.checkPlanes(head)
        if head.shape[0] != 1 || head.shape[1] != channels {
            throw Misfit("\(head.shown) where (1, \(channels), rows, columns) is needed")
        }
        try checkFinite(head.data)
        let (height, width) = (head.shape[2], head.shape[3])
        return (0..<classes).map { id in
            id < background
                ? Plane([Float](repeating: 0, count: width * height), width: width, height: height)
                : Plane(head.data, start: (id - background) * width * height, width: width, height: height)
        }
    }
}
