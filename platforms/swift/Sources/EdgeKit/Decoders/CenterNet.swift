import Foundation

/// CenterNet and CenterFace: an object is a peak of its class's heatmap, with its size and what it is off the cell.
///
/// score = sigmoid(heatmap), centre = (cell + offset) * stride, size = size * stride (Zhou et al. 2019).
package struct CenterNet: Decoder {
    package static let name = "centernet"
    package static let attachments = ["keypoints"]

    private let stride: Int
    private let isExponential: Bool
    private let isXY: Bool
    private let cellOffset: Float
    private let keypointsAreOfBox: Bool
    private let peaks: Bool

    package init(_ options: Fields) throws {
        stride = try options.read("stride", Read.count, or: 4)
        isExponential = try options.read("sizes", Read.word("plain", "exponential"), or: "plain") == "exponential"
        isXY = try options.read("order", Read.word("xy", "yx"), or: "xy") == "xy"
        cellOffset = Float(try options.read("cell_offset", Read.float, or: 0))
        keypointsAreOfBox = try options.read("keypoints", Read.word("cell", "box"), or: "cell") == "box"
        peaks = try options.read("peaks", Read.bool, or: true)
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let classes = try heads.only("classes")
        let grid = try Grid(classes, frame, stride: Double(stride))
        let heat = try grid.planes(classes, frame.classes)
        let cut = logit(threshold)
        let best = try survivors(heat, 0, frame.classes, grid.cells, above: cut)
        let box = try boxes(heads, grid)
        var found = Candidates()
        for cell in 0..<grid.cells where best.values[cell] > cut {
            if peaks && !isPeak(heat, grid, best.classIds[cell], cell) { continue }
            let (x, y, width, height) = try box(cell)
            found.add(x: x, y: y, width: width, height: height, sigmoid(best.values[cell]), best.classIds[cell], cell)
        }
        return found
    }

    /// Whether a cell has the largest logit of its 3x3 neighbours, in its class's map.
    private func isPeak(_ heat: [Float], _ grid: Grid, _ classId: Int, _ cell: Int) -> Bool {
        let base = classId * grid.cells
        let (row, column) = (cell / grid.columns, cell % grid.columns)
        for y in max(row - 1, 0)...min(row + 1, grid.rows - 1) {
            for x in max(column - 1, 0)...min(column + 1, grid.columns - 1)
            where !(heat[base + cell] >= heat[base + y * grid.columns + x]) { return false }
        }
        return true
    }

    /// Centre and size of the box of a cell, in input pixels.
    private func boxes(_ heads: Heads, _ grid: Grid) throws -> (Int) throws -> (Float, Float, Float, Float) {
        let offsets = try grid.planes(try heads.only("offsets"), 2)
        let sizes = try grid.planes(try heads.only("sizes"), 2)
        let (first, second) = isXY ? (0, grid.cells) : (grid.cells, 0)
        let stride = Float(stride)
        return { cell in
            let raw = [try finite(sizes[first + cell]), try finite(sizes[second + cell])]
            return (
                (grid.column(cell) + cellOffset + (try finite(offsets[first + cell]))) * stride,
                (grid.row(cell) + cellOffset + (try finite(offsets[second + cell]))) * stride,
                (isExponential ? exp(raw[0]) : raw[0]) * stride,
                (isExponential ? exp(raw[1]) : raw[1]) * stride
            )
        }
    }

    package func attach(_ role: String, _ heads: Heads, _ frame: InputFrame, at anchors: [Int]) throws -> Attached {
        let at = try places(try heads.levels("keypoints"), at: anchors)
        var found = try points(at.attached, frame.keypoints)
        let grid = try Grid(try heads.only("classes"), frame, stride: Double(stride))
        let boxAt = keypointsAreOfBox ? try boxes(heads, grid) : nil
        let stride = Float(stride)
        for i in anchors.indices {
            let box = try boxAt?(anchors[i])
            for k in stride3(i, found.width) {
                let (x, y) = isXY ? (found.data[k], found.data[k + 1]) : (found.data[k + 1], found.data[k])
                if let (centreX, centreY, width, height) = box {
                    found.data[k] = centreX - width / 2 + x * width
                    found.data[k + 1] = centreY - height / 2 + y * height
                } else {
                    found.data[k] = (x + at.columns[i]) * stride
                    found.data[k + 1] = (y + at.rows[i]) * stride
                }
            }
        }
        return found
    }
}
