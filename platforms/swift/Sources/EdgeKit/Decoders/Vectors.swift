/// Embedding heads: one vector for the whole input, at unit length.
package struct Vectors: Decoder {
    package static let name = "vector"
    package static let task = "embed"

    package init(_ options: Fields) throws {}

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let head = try heads.only("vector")
        if head.data.count != head.shape.max() ?? 0 { throw Misfit("\(head.shown) is not one vector") }
        try checkFinite(head.data)
        let length = head.data.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
        let unit = length > 0 ? head.data.map { Float(Double($0) / length) } : head.data
        var found = Candidates()
        found.add(Box(0, 0, Float(frame.width), Float(frame.height)), 1, 0, 0)
        found.attached = Attached(data: unit, width: unit.count)
        return found
    }
}
