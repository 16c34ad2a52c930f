package edgekit

import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.sign

/** Heatmaps of keypoints (SimpleBaselines, HRNet, ViTPose): the peak's place, refined between cells, and its height as score. */
internal class HeatMaps(options: Fields) : Decoder {
    companion object : Family("heatmaps", task = "pose") {
        override fun open(options: Fields) = HeatMaps(options)
    }

    override val family get() = HeatMaps

    private enum class Refine { NONE, QUARTER, DARK }

    private val refine = options.read("refine", Read.word(), or = Refine.QUARTER)
    private val kernel = options.read("kernel", Read.int(1, 255), or = 11)
    private val isAligned = options.read("aligned", Read.bool, or = false)

    /** One keypoint's map. */
    private class HeatMap(private val data: FloatArray, private val start: Int, val rows: Int, val columns: Int) {
        operator fun get(x: Int, y: Int): Float = data[start + y * columns + x]

        /** The place of the largest value, the first of equals. */
        fun peak(): Int {
            var best = 0
            for (i in 1 until rows * columns) if (data[start + i] > data[start + best]) best = i
            return best
        }
    }

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val head = heads.only("heatmaps")
        Grid.checkPlanes(head)
        val (count, rows, columns) = Triple(head.shape[1], head.shape[2], head.shape[3])
        checkFinite(head.data)
        if (refine == Refine.DARK && kernel % 2 == 0) throw Misfit("kernel must be odd, not $kernel")
        val blur = gaussian(kernel)
        val points = FloatArray(3 * count)
        for (k in 0 until count) {
            val map = HeatMap(head.data, k * rows * columns, rows, columns)
            val peak = map.peak()
            val (x, y) = peak % columns to peak / columns
            val (right, down) = when (refine) {
                Refine.NONE -> 0f to 0f
                Refine.QUARTER -> quarter(map, x, y)
                Refine.DARK -> dark(map, x, y, blur)
            }
            points[3 * k] = PIXEL_CENTRE + placed(x + right, frame.width, columns)
            points[3 * k + 1] = PIXEL_CENTRE + placed(y + down, frame.height, rows)
            points[3 * k + 2] = map[x, y].coerceIn(0f, 1f)
        }
        return onePerson(points, frame, threshold)
    }

    private fun placed(place: Float, size: Int, cells: Int): Float =
        if (isAligned) place * (size - 1) / (cells - 1) else place * (size.toFloat() / cells)

    /** A quarter of a cell towards the higher neighbour; nothing at the border. */
    private fun quarter(map: HeatMap, x: Int, y: Int): Pair<Float, Float> {
        if (x <= 0 || x >= map.columns - 1 || y <= 0 || y >= map.rows - 1) return 0f to 0f
        return 0.25f * sign(map[x + 1, y] - map[x - 1, y]) to 0.25f * sign(map[x, y + 1] - map[x, y - 1])
    }

    /** One Newton step on the logarithm of the blurred heatmap (DARK, Zhang et al. 2020): exact for a Gaussian. */
    private fun dark(map: HeatMap, x: Int, y: Int, blur: FloatArray): Pair<Float, Float> {
        if (x < 2 || x >= map.columns - 2 || y < 2 || y >= map.rows - 2) return 0f to 0f
        val at = window(map, x, y, blur)
        fun w(row: Int, column: Int): Double = at[5 * row + column]
        val (slopeX, slopeY) = 0.5 * (w(2, 3) - w(2, 1)) to 0.5 * (w(3, 2) - w(1, 2))
        val xx = 0.25 * (w(2, 4) - 2 * w(2, 2) + w(2, 0))
        val yy = 0.25 * (w(4, 2) - 2 * w(2, 2) + w(0, 2))
        val xy = 0.25 * (w(3, 3) - w(1, 3) - w(3, 1) + w(1, 1))
        val determinant = xx * yy - xy * xy
        if (!(determinant > 0)) return 0f to 0f
        val (right, down) = -(yy * slopeX - xy * slopeY) / determinant to -(xx * slopeY - xy * slopeX) / determinant
        return right.coerceIn(-1.0, 1.0).toFloat() to down.coerceIn(-1.0, 1.0).toFloat()
    }

    /** Logarithms of the 5x5 blurred cells around a peak. */
    private fun window(map: HeatMap, x: Int, y: Int, blur: FloatArray): DoubleArray {
        val reach = (blur.size - 1) / 2
        val across = FloatArray(5 * (5 + 2 * reach)) {
            val row = mirror(y - 2 - reach + it / 5, map.rows)
            var sum = 0.0
            for (k in -reach..reach) sum += blur[k + reach].toDouble() * map[mirror(x - 2 + it % 5 + k, map.columns), row]
            sum.toFloat()
        }
        return DoubleArray(25) {
            var sum = 0.0
            for (k in blur.indices) sum += blur[k].toDouble() * across[5 * (it / 5 + k) + it % 5]
            ln(maxOf(sum.toFloat(), 1e-10f).toDouble()).toFloat().toDouble()
        }
    }
}

/** A place beyond the border, mirrored at the middle of the first or last cell. */
private fun mirror(place: Int, size: Int): Int {
    if (size == 1) return 0
    val period = 2 * (size - 1)
    val inside = place.mod(period)
    return if (inside < size) inside else period - inside
}

/** OpenCV's kernels for a sigma that it chooses itself; small ones are tables of binary fractions. */
private fun gaussian(size: Int): FloatArray = when (size) {
    1 -> floatArrayOf(1f)
    3 -> floatArrayOf(0.25f, 0.5f, 0.25f)
    5 -> floatArrayOf(0.0625f, 0.25f, 0.375f, 0.25f, 0.0625f)
    7 -> floatArrayOf(0.03125f, 0.109375f, 0.21875f, 0.28125f, 0.21875f, 0.109375f, 0.03125f)
    9 -> floatArrayOf(0.015625f, 0.05078125f, 0.1171875f, 0.19921875f, 0.234375f, 0.19921875f, 0.1171875f, 0.05078125f, 0.015625f)
    else -> {
        val sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
        val values = DoubleArray(size) {
            val away = it - (size - 1) / 2.0
            exp(-(away * away) / (2 * sigma * sigma))
        }
        val total = values.sum()
        FloatArray(size) { (values[it] / total).toFloat() }
    }
}
