/// 32-bit floats with their shape, in C order.
public struct Tensor: Sendable {
    public var data: [Float]
    public var shape: [Int]

    public init(_ data: [Float], shape: [Int]) {
        self.data = data
        self.shape = shape
    }

    /// How a message shows the shape: `(1, 80, 52, 52)`.
    package var shown: String { "(\(shape.map(String.init).joined(separator: ", "))\(shape.count == 1 ? "," : ""))" }
}

/// Width and height in pixels.
public struct Size: Sendable, Hashable {
    public var width: Int
    public var height: Int

    public init(width: Int, height: Int) {
        self.width = width
        self.height = height
    }
}

/// An upright box in pixels, x to the right and y down. Pixel (row i, column j) covers [j, j + 1) x [i, i + 1).
public struct Box: Sendable, Hashable {
    public var x1: Float
    public var y1: Float
    public var x2: Float
    public var y2: Float

    public init(_ x1: Float, _ y1: Float, _ x2: Float, _ y2: Float) {
        (self.x1, self.y1, self.x2, self.y2) = (x1, y1, x2, y2)
    }

    public var width: Float { x2 - x1 }
    public var height: Float { y2 - y1 }

    package var area: Float { max(width, 0) * max(height, 0) }

    /// Clipped to a picture.
    package func clipped(to size: Size) -> Box {
        let (width, height) = (Float(size.width), Float(size.height))
        return Box(min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height))
    }
}

/// Indices of values from the largest to the smallest; equal ones keep their order.
package func descending(_ values: [Float]) -> [Int] {
    values.indices.sorted { values[$0] != values[$1] ? values[$0] > values[$1] : $0 < $1 }
}

extension Array {
    /// The elements at these places, in that order.
    package func taking(_ places: some Sequence<Int>) -> [Element] { places.map { self[$0] } }
}

extension Comparable {
    package func clamped(_ least: Self, _ most: Self) -> Self { min(max(self, least), most) }
}
