package edgekit

import kotlin.math.hypot

/**
 * MoveNet single-pose from its raw heads, (1, channels, rows, columns) each, of which x and y alternate as (y, x).
 *
 * The person is at the best centre, weighted down with the distance from the middle of the input; each keypoint at the
 * best cell of its heatmap, weighted down with the distance from where the centre's regression points; then refined by
 * that cell's offset.
 */
internal class MoveNet : Decoder {
    companion object : Family("movenet", task = "pose") {
        override fun open(options: Fields) = MoveNet()

        /** Cells; what MoveNet adds to a distance before it divides by it, so that the nearest cells weigh about alike. */
        private const val SPREAD = 1.8f
    }

    override val family get() = MoveNet

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val (centers, heatmaps) = heads.only("centers") to heads.only("heatmaps")
        Grid.checkPlanes(centers)
        Grid.checkPlanes(heatmaps)
        val grid = Grid(centers.shape[2], centers.shape[3])
        val (cells, count) = grid.cells to heatmaps.shape[1]
        val (middle, heat) = grid.planes(centers, 1) to grid.planes(heatmaps, count)
        val ways = grid.planes(heads.only("regressions"), 2 * count)
        val moves = grid.planes(heads.only("offsets"), 2 * count)
        checkFinite(middle)
        checkFinite(heat)
        val centre = nearest(middle, 0, grid, (grid.rows / 2).toFloat(), (grid.columns / 2).toFloat())
        val points = FloatArray(3 * count)
        for (k in 0 until count) {
            val row = ways[2 * k * cells + centre] + grid.row(centre)
            val column = ways[(2 * k + 1) * cells + centre] + grid.column(centre)
            val cell = nearest(heat, k * cells, grid, row, column)
            points[3 * k] = (grid.column(cell) + moves[(2 * k + 1) * cells + cell]) * (frame.width.toFloat() / grid.columns)
            points[3 * k + 1] = (grid.row(cell) + moves[2 * k * cells + cell]) * (frame.height.toFloat() / grid.rows)
            points[3 * k + 2] = sigmoid(heat[k * cells + cell])
        }
        return onePerson(points, frame, threshold)
    }

    /** The cell with the largest sigmoid, weighted down with its distance from a place. */
    private fun nearest(logits: FloatArray, first: Int, grid: Grid, row: Float, column: Float): Int {
        var (best, found) = Float.NEGATIVE_INFINITY to 0
        for (cell in 0 until grid.cells) {
            val away = hypot(grid.row(cell) - row, grid.column(cell) - column)
            val value = sigmoid(logits[first + cell]) / (away + SPREAD)
            if (value > best) {
                best = value
                found = cell
            }
        }
        return found
    }
}
