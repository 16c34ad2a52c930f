package edgekit

import kotlin.math.exp

/**
 * CenterNet and CenterFace: an object is a peak of its class's heatmap, with its size and what it is off the cell.
 *
 * score = sigmoid(heatmap), centre = (cell + offset) * stride, size = size * stride (Zhou et al. 2019).
 */
internal class CenterNet(options: Fields) : Decoder {
    companion object : Family("centernet", attachments = listOf("keypoints")) {
        override fun open(options: Fields) = CenterNet(options)
    }

    override val family get() = CenterNet

    private val stride = options.read("stride", Read.count, or = 4)
    private val isExponential = options.read("sizes", Read.word("plain", "exponential"), or = "plain") == "exponential"
    private val isXY = options.read("order", Read.word("xy", "yx"), or = "xy") == "xy"
    private val cellOffset = options.read("cell_offset", Read.float, or = 0.0).toFloat()
    private val keypointsAreOfBox = options.read("keypoints", Read.word("cell", "box"), or = "cell") == "box"
    private val peaks = options.read("peaks", Read.bool, or = true)

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val classes = heads.only("classes")
        val grid = Grid.of(classes, frame, stride.toDouble())
        val heat = grid.planes(classes, frame.classes)
        val cut = logit(threshold)
        val best = survivors(heat, 0, frame.classes, grid.cells, cut)
        val boxes = Boxes(heads, grid)
        val found = Found()
        for (cell in 0 until grid.cells) {
            if (!(best.values[cell] > cut) || (peaks && !isPeak(heat, grid, best.classIds[cell], cell))) continue
            val (x, y, width, height) = boxes.at(cell)
            found.add(x, y, width, height, sigmoid(best.values[cell]), best.classIds[cell], cell)
        }
        return found.candidates()
    }

    /** Whether a cell has the largest logit of its 3x3 neighbours, in its class's map. */
    private fun isPeak(heat: FloatArray, grid: Grid, classId: Int, cell: Int): Boolean {
        val base = classId * grid.cells
        val (row, column) = cell / grid.columns to cell % grid.columns
        for (y in maxOf(row - 1, 0)..minOf(row + 1, grid.rows - 1)) {
            for (x in maxOf(column - 1, 0)..minOf(column + 1, grid.columns - 1)) {
                if (!(heat[base + cell] >= heat[base + y * grid.columns + x])) return false
            }
        }
        return true
    }

    /** The boxes of all cells, in input pixels. */
    private inner class Boxes(heads: Heads, private val grid: Grid) {
        private val offsets = grid.planes(heads.only("offsets"), 2)
        private val sizes = grid.planes(heads.only("sizes"), 2)

        /** Centre x, y, width, height. */
        fun at(cell: Int): FloatArray {
            val (first, second) = if (isXY) cell to grid.cells + cell else grid.cells + cell to cell
            val (width, height) = finite(sizes[first]) to finite(sizes[second])
            return floatArrayOf(
                (grid.column(cell) + cellOffset + finite(offsets[first])) * stride,
                (grid.row(cell) + cellOffset + finite(offsets[second])) * stride,
                (if (isExponential) exp(width) else width) * stride,
                (if (isExponential) exp(height) else height) * stride,
            )
        }
    }

    override fun attach(role: String, heads: Heads, frame: InputFrame, anchors: IntArray): Attached {
        val places = places(heads.levels("keypoints"), anchors)
        val found = points(places.attached, frame.keypoints)
        val grid = Grid.of(heads.only("classes"), frame, stride.toDouble())
        val boxes = if (keypointsAreOfBox) Boxes(heads, grid) else null
        val data = found.data
        found.eachPoint { i, at ->
            val (x, y) = if (isXY) data[at] to data[at + 1] else data[at + 1] to data[at]
            if (boxes != null) {
                val (centreX, centreY, width, height) = boxes.at(anchors[i])
                data[at] = centreX - width / 2 + x * width
                data[at + 1] = centreY - height / 2 + y * height
            } else {
                data[at] = (x + places.columns[i]) * stride
                data[at + 1] = (y + places.rows[i]) * stride
            }
        }
        return found
    }
}
