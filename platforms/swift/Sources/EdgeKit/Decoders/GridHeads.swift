import Foundation

/// YOLOX and YuNet: no anchors, centre offsets and log sizes in strides, with an objectness; landmarks beside them.
///
/// score = (sigmoid(objectness) * sigmoid(class)) ^ power
package struct GridHeads: Decoder {
    package static let name = "grid"
    package static let attachments = ["keypoints"]

    private let strides: [Int]
    private let power: Double

    package init(_ options: Fields) throws {
        strides = try options.read("strides", Read.list(Read.count))
        power = try options.read("power", Read.positive, or: 1)
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let boxHeads = try heads.levels("boxes", strides.count)
        let presences = try heads.levels("objectness", strides.count)
        let classHeads = try heads.levels("classes", strides.count)
        let cut = logit(threshold > 0 ? pow(threshold, 1 / power) : threshold)
        var found = Candidates()
        var first = 0
        for (level, stride) in strides.enumerated() {
            let grid = try Grid(classHeads[level], frame, stride: Double(stride))
            let (cells, stride) = (grid.cells, Float(stride))
            let presence = try grid.planes(presences[level], 1)
            try checkFinite(presence)
            let best = try survivors(try grid.planes(classHeads[level], frame.classes), 0, frame.classes, cells, above: cut)
            let boxes = try grid.planes(boxHeads[level], 4)
            for cell in 0..<cells where best.values[cell] > cut {  // a product passes only where both factors do
                let product = sigmoid(best.values[cell]) * sigmoid(presence[cell])
                let score = power == 1 ? product : pow(product, Float(power))
                guard score > Float(threshold) else { continue }
                // The exponential makes an innocent 0 of a negative infinity.
                let raw = try (0..<4).map { try finite(boxes[$0 * cells + cell]) }
                found.add(
                    x: (raw[0] + grid.column(cell)) * stride, y: (raw[1] + grid.row(cell)) * stride,
                    width: exp(raw[2]) * stride, height: exp(raw[3]) * stride, score, best.classIds[cell], first + cell)
            }
            first += cells
        }
        return found
    }

    /// Keypoints (n, k, 3) at (value + cell) * stride.
    package func attach(_ role: String, _ heads: Heads, _ frame: InputFrame, at anchors: [Int]) throws -> Attached {
        let at = try places(try heads.levels("keypoints", strides.count), at: anchors)
        var found = try points(at.attached, frame.keypoints)
        let isScored = at.width == 3 * frame.keypoints
        for i in anchors.indices {
            let stride = Float(strides[at.levels[i]])
            for k in stride3(i, found.width) {
                found.data[k] = (found.data[k] + at.columns[i]) * stride
                found.data[k + 1] = (found.data[k + 1] + at.rows[i]) * stride
                if isScored { found.data[k + 2] = sigmoid(found.data[k + 2]) }
            }
        }
        return found
    }
}
