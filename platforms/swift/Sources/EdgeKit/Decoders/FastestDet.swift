import Foundation

/// FastestDet: one level of cells; score = objectness^0.6 * class^0.4, centre = (tanh(xy) + cell) / grid, size = sigmoid.
package struct FastestDet: Decoder {
    package static let name = "fastestdet"

    private let power: Double
    private let classPower: Double
    private let isActivated: Bool

    package init(_ options: Fields) throws {
        power = try options.read("objectness_power", Read.positive, or: 0.6)
        classPower = try options.read("class_power", Read.positive, or: 0.4)
        isActivated = try options.read("activated", Read.bool, or: false)
    }

    /// Channels of a head as a head of their own.
    private func part(_ head: Tensor, _ channels: Range<Int>) -> Tensor {
        let cells = head.shape[2] * head.shape[3]
        return Tensor(
            Array(head.data[channels.lowerBound * cells..<channels.upperBound * cells]),
            shape: [1, channels.count, head.shape[2], head.shape[3]])
    }

    private func split(_ heads: Heads) throws -> (objectness: Tensor, boxes: Tensor, classes: Tensor) {
        if !isActivated { return (try heads.only("objectness"), try heads.only("boxes"), try heads.only("classes")) }
        let fused = try heads.only("predictions")
        guard fused.shape.count == 4, fused.shape[0] == 1, fused.shape[1] > 5 else {
            throw Misfit("\(fused.shown) where (1, 5 + classes, rows, columns) is needed")
        }
        return (part(fused, 0..<1), part(fused, 1..<5), part(fused, 5..<fused.shape[1]))
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let (objectness, boxes, classes) = try split(heads)
        try Grid.checkPlanes(classes)
        let grid = Grid(rows: classes.shape[2], columns: classes.shape[3])
        let cells = grid.cells
        let presence = try grid.planes(objectness, 1)
        try checkFinite(presence)
        let values = try grid.planes(classes, frame.classes)
        let raw = try grid.planes(boxes, 4)
        // The class factor is at most 1, so the objectness alone has to pass before any softmax is worth its time.
        let least = threshold > 0 ? pow(threshold, 1 / power) : -1
        let cut = isActivated ? Float(least) : logit(least)
        var found = Candidates()
        for cell in 0..<cells where presence[cell] > cut {
            let (classId, best) = try likeliest(values, cell, cells, frame.classes)
            let confidence = isActivated ? presence[cell] : sigmoid(presence[cell])
            let score = Float(pow(Double(confidence), power) * pow(Double(best), classPower))
            guard score > Float(threshold) else { continue }
            let place = try (0..<4).map { try finite(raw[$0 * cells + cell]) }
            found.add(
                x: (tanh(place[0]) + grid.column(cell)) / Float(grid.columns) * Float(frame.width),
                y: (tanh(place[1]) + grid.row(cell)) / Float(grid.rows) * Float(frame.height),
                width: sigmoid(place[2]) * Float(frame.width), height: sigmoid(place[3]) * Float(frame.height),
                score, classId, cell)
        }
        return found
    }

    /// The likeliest class of a cell, and its probability.
    private func likeliest(_ values: [Float], _ cell: Int, _ cells: Int, _ classes: Int) throws -> (Int, Float) {
        var (classId, best) = (0, -Float.infinity)
        for c in 0..<classes where try finite(values[c * cells + cell]) > best { (classId, best) = (c, values[c * cells + cell]) }
        if isActivated { return (classId, max(best, 0)) }
        let total = (0..<classes).reduce(Float(0)) { $0 + exp(values[$1 * cells + cell] - best) }
        return (classId, 1 / total)
    }
}
