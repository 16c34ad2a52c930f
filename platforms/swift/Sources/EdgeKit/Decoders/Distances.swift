import Foundation

/// RTMDet, SCRFD and FCOS: boxes as plain distances from a place in each cell, five landmarks of a face beside them.
///
/// Distances left, top, right, bottom, in strides; score = (sigmoid(class) * sigmoid(centerness)) ^ power, without a
/// centerness sigmoid(class) ^ power.
package struct Distances: Decoder {
    package static let name = "distances"
    package static let attachments = ["keypoints"]

    private let strides: [Int]
    private let perCell: Int
    private let cellOffset: Float
    private let isExponential: Bool
    private let hasCenterness: Bool
    private let power: Double

    package init(_ options: Fields) throws {
        strides = try options.read("strides", Read.list(Read.count))
        perCell = try options.read("per_cell", Read.count, or: 1)
        cellOffset = Float(try options.read("cell_offset", Read.float, or: 0))
        isExponential = try options.read("exponential", Read.bool, or: false)
        hasCenterness = try options.read("centerness", Read.bool, or: false)
        power = try options.read("power", Read.positive, or: 1)
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let boxHeads = try heads.levels("boxes", strides.count)
        let classHeads = try heads.levels("classes", strides.count)
        let centers = hasCenterness ? try heads.levels("centerness", strides.count) : nil
        let cut = logit(threshold > 0 ? pow(threshold, 1 / power) : threshold)
        var found = Candidates()
        var first = 0
        for (level, stride) in strides.enumerated() {
            let grid = try Grid(classHeads[level], frame, stride: Double(stride))
            let (cells, stride) = (grid.cells, Float(stride))
            let logits = try grid.planes(classHeads[level], perCell * frame.classes)
            let boxes = try grid.planes(boxHeads[level], 4 * perCell)
            let central = try centers.map { try grid.planes($0[level], perCell) }
            if let central { try checkFinite(central) }
            for kind in 0..<perCell {
                let best = try survivors(logits, kind * frame.classes * cells, frame.classes, cells, above: cut)
                for cell in 0..<cells where best.values[cell] > cut {  // a product passes only where both factors do
                    var score = sigmoid(best.values[cell])
                    if let central { score *= sigmoid(central[kind * cells + cell]) }
                    if power != 1 { score = pow(score, Float(power)) }
                    guard score > Float(threshold) else { continue }
                    let reach = try (0..<4).map { side in
                        let value = try finite(boxes[(4 * kind + side) * cells + cell])
                        return isExponential ? exp(value) : value
                    }
                    let (x, y) = (grid.column(cell) + cellOffset, grid.row(cell) + cellOffset)
                    let box = Box((x - reach[0]) * stride, (y - reach[1]) * stride, (x + reach[2]) * stride, (y + reach[3]) * stride)
                    found.add(box, score, best.classIds[cell], first + cell * perCell + kind)
                }
            }
            first += cells * perCell
        }
        return found
    }

    /// Keypoints (n, k, 3) at (value + cell + cell_offset) * stride.
    package func attach(_ role: String, _ heads: Heads, _ frame: InputFrame, at anchors: [Int]) throws -> Attached {
        let at = try places(try heads.levels("keypoints"), at: anchors, perCell: strides.map { _ in perCell })
        var found = try points(at.attached, frame.keypoints)
        for i in anchors.indices {
            let stride = Float(strides[at.levels[i]])
            for k in stride3(i, found.width) {
                found.data[k] = (found.data[k] + at.columns[i] + cellOffset) * stride
                found.data[k + 1] = (found.data[k + 1] + at.rows[i] + cellOffset) * stride
            }
        }
        return found
    }
}
