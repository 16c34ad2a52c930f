package edgekit

import kotlin.math.exp
import kotlin.math.pow

/**
 * YOLOX and YuNet: no anchors, centre offsets and log sizes in strides, with an objectness; landmarks beside them.
 *
 * score = (sigmoid(objectness) * sigmoid(class)) ^ power
 */
internal class GridHeads(options: Fields) : Decoder {
    companion object : Family("grid", attachments = listOf("keypoints")) {
        override fun open(options: Fields) = GridHeads(options)
    }

    override val family get() = GridHeads

    private val strides = options.read("strides", Read.list(Read.count))
    private val power = options.read("power", Read.positive, or = 1.0)

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val boxHeads = heads.levels("boxes", strides.size)
        val presences = heads.levels("objectness", strides.size)
        val classHeads = heads.levels("classes", strides.size)
        val cut = logit(if (threshold > 0) threshold.pow(1 / power) else threshold)
        val found = Found()
        var first = 0
        for ((level, step) in strides.withIndex()) {
            val grid = Grid.of(classHeads[level], frame, step.toDouble())
            val cells = grid.cells
            val presence = grid.planes(presences[level], 1)
            checkFinite(presence)
            val best = survivors(grid.planes(classHeads[level], frame.classes), 0, frame.classes, cells, cut)
            val boxes = grid.planes(boxHeads[level], 4)
            val stride = step.toFloat()
            for (cell in 0 until cells) {
                if (!(best.values[cell] > cut)) continue // a product passes only where both factors do
                val product = sigmoid(best.values[cell]) * sigmoid(presence[cell])
                val score = if (power == 1.0) product else product.pow(power.toFloat())
                if (!(score > threshold.toFloat())) continue
                // The exponential makes an innocent 0 of a negative infinity.
                val raw = FloatArray(4) { finite(boxes[it * cells + cell]) }
                found.add(
                    (raw[0] + grid.column(cell)) * stride, (raw[1] + grid.row(cell)) * stride, exp(raw[2]) * stride, exp(raw[3]) * stride,
                    score, best.classIds[cell], first + cell,
                )
            }
            first += cells
        }
        return found.candidates()
    }

    /** Keypoints (n, k, 3) at (value + cell) * stride. */
    override fun attach(role: String, heads: Heads, frame: InputFrame, anchors: IntArray): Attached {
        val places = places(heads.levels("keypoints", strides.size), anchors)
        val found = points(places.attached, frame.keypoints)
        val isScored = places.width == 3 * frame.keypoints
        val data = found.data
        found.eachPoint { i, at ->
            val stride = strides[places.levels[i]].toFloat()
            data[at] = (data[at] + places.columns[i]) * stride
            data[at + 1] = (data[at + 1] + places.rows[i]) * stride
            if (isScored) data[at + 2] = sigmoid(data[at + 2])
        }
        return found
    }
}
