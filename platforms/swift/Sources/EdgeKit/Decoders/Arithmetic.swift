import Foundation

/// The logit of a probability, so that thresholds are compared before any sigmoid.
package func logit(_ probability: Double) -> Float {
    if probability <= 0 { return -.infinity }
    return probability >= 1 ? .infinity : Float(log(probability / (1 - probability)))
}

/// Logistic function without overflow.
package func sigmoid(_ value: Float) -> Float { 0.5 * (tanh(0.5 * value) + 1) }

private let notFinite = EdgeKitError.engine("the graph gave NaN or infinite outputs; convert in another precision, or verify the bundle")

/// Refuse NaN and infinities, which fail every threshold and would be dropped silently. Throws `EdgeKitError.engine`.
package func checkFinite(_ values: some Sequence<Float>) throws {
    for value in values where !value.isFinite { throw notFinite }
}

/// Refuse one number that is NaN or infinite.
package func finite(_ value: Float) throws -> Float {
    if !value.isFinite { throw notFinite }
    return value
}

/// The best value of every cell, and its class.
package struct Best {
    package var values: [Float]
    package var classIds: [Int]
}

/// The largest value of each cell over its classes, the first of equals: `values` is (classes, cells) from `first` on.
/// Throws `EdgeKitError.engine`: it is NaN or infinite.
package func bestOf(_ values: [Float], _ first: Int, _ classes: Int, _ cells: Int) throws -> Best {
    var best = Best(values: Array(values[first..<first + cells]), classIds: [Int](repeating: 0, count: cells))
    for c in 1..<max(classes, 1) {
        let row = first + c * cells
        for cell in 0..<cells {
            let value = values[row + cell]
            if value.isNaN { throw notFinite }
            if !(value <= best.values[cell]) { (best.values[cell], best.classIds[cell]) = (value, c) }
        }
    }
    try checkFinite(best.values)
    return best
}

/// As `bestOf`, but values of cells that are not above `cut` may be anything not above it: one look at each value.
///
/// Throws `EdgeKitError.engine`: the largest value of a cell is NaN or infinite.
package func survivors(_ values: [Float], _ first: Int, _ classes: Int, _ cells: Int, above cut: Float) throws -> Best {
    if !cut.isFinite { return try bestOf(values, first, classes, cells) }
    var best = Best(values: [Float](repeating: cut, count: cells), classIds: [Int](repeating: 0, count: cells))
    var broken = false
    values.withUnsafeBufferPointer { values in
        best.values.withUnsafeMutableBufferPointer { top in
            best.classIds.withUnsafeMutableBufferPointer { ids in
                for c in 0..<classes {
                    let row = UnsafeBufferPointer(rebasing: values[first + c * cells..<first + (c + 1) * cells])
                    for start in stride(from: 0, to: cells, by: block) {
                        let end = min(start + block, cells)
                        // Most blocks have nothing above the threshold, which one pass without a branch tells.
                        var any = false
                        for cell in start..<end { any = any || !(row[cell] <= cut) }
                        if !any { continue }
                        for cell in start..<end where !(row[cell] <= cut) {
                            if !row[cell].isFinite { broken = true }
                            if row[cell] > top[cell] { (top[cell], ids[cell]) = (row[cell], c) }
                        }
                    }
                }
                for cell in 0..<cells where values[first + cell] == -.infinity {
                    if (0..<classes).allSatisfy({ values[first + $0 * cells + cell] == -.infinity }) { broken = true }
                }
            }
        }
    }
    if broken { throw notFinite }
    return best
}

private let block = 64

/// Rows and columns of a head (1, channels, rows, columns).
package struct Grid {
    package let rows: Int
    package let columns: Int
    package var cells: Int { rows * columns }

    package init(rows: Int, columns: Int) { (self.rows, self.columns) = (rows, columns) }

    /// Throws `Misfit`: a grid that this stride cannot have.
    package init(_ head: Tensor, _ frame: InputFrame, stride: Double) throws {
        try Grid.checkPlanes(head)
        (rows, columns) = (head.shape[2], head.shape[3])
        if abs(Double(rows) * stride - Double(frame.height)) >= stride || abs(Double(columns) * stride - Double(frame.width)) >= stride {
            throw Misfit("a grid of \(rows)x\(columns) does not fit stride \(stride) on an input of \(frame.height)x\(frame.width)")
        }
    }

    package static func checkPlanes(_ head: Tensor) throws {
        if head.shape.count != 4 || head.shape.contains(where: { $0 < 1 }) { throw Misfit("\(head.shown) where (1, channels, rows, columns) is needed") }
    }

    package func column(_ cell: Int) -> Float { Float(cell % columns) }
    package func row(_ cell: Int) -> Float { Float(cell / columns) }

    /// The values (channels, cells) of a head. Throws `Misfit`: another shape.
    package func planes(_ head: Tensor, _ channels: Int) throws -> [Float] {
        let wanted = [1, channels, rows, columns]
        if head.shape != wanted || channels < 1 { throw Misfit("\(head.shown) where \(Tensor([], shape: wanted).shown) is needed") }
        return head.data
    }
}

/// The one table in a head (1, rows, columns). Throws `Misfit`.
package func matrix(_ head: Tensor) throws -> (data: [Float], rows: Int, columns: Int) {
    let last = head.shape.suffix(2)
    guard last.count == 2, last.reduce(1, *) == head.data.count else { throw Misfit("\(head.shown) is not one table") }
    return (head.data, last.first!, last.last!)
}

/// What a role says of some anchors, and where they are.
package struct Places {
    /// (n, width).
    package var values: [Float] = []
    package let width: Int
    package var levels: [Int] = []
    /// Number in the cell.
    package var kinds: [Int] = []
    package var columns: [Float] = []
    package var rows: [Float] = []

    package var attached: Attached { Attached(data: values, width: width) }
}

/// Values of one role at places counted level after level, cell after cell, box after box of a cell. Throws `Misfit`.
package func places(_ heads: [Tensor], at anchors: [Int], perCell: [Int]? = nil) throws -> Places {
    let perCell = perCell ?? heads.map { _ in 1 }
    if heads.count != perCell.count { throw Misfit("\(heads.count) outputs where \(perCell.count) levels are needed") }
    for (head, kinds) in zip(heads, perCell) {
        try Grid.checkPlanes(head)
        if kinds == 0 || head.shape[1] % kinds != 0 { throw Misfit("\(head.shape[1]) channels where a multiple of \(kinds) boxes in a cell is needed") }
    }
    let widths = zip(heads, perCell).map { $0.shape[1] / $1 }
    guard let width = widths.first, widths.allSatisfy({ $0 == width }) else { throw Misfit("levels of different numbers of channels") }
    var found = Places(width: width)
    for anchor in anchors {
        var (local, level) = (anchor, 0)
        while level < heads.count {
            let size = heads[level].shape[2] * heads[level].shape[3] * perCell[level]
            if local < size { break }
            (local, level) = (local - size, level + 1)
        }
        if level == heads.count { throw Misfit("there is no anchor \(anchor)") }
        let grid = Grid(rows: heads[level].shape[2], columns: heads[level].shape[3])
        let (cell, kind) = (local / perCell[level], local % perCell[level])
        found.levels.append(level)
        found.kinds.append(kind)
        found.columns.append(grid.column(cell))
        found.rows.append(grid.row(cell))
        for k in 0..<width { found.values.append(heads[level].data[(kind * width + k) * grid.cells + cell]) }
    }
    return found
}
