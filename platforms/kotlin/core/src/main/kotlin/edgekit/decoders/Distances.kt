package edgekit

import kotlin.math.exp
import kotlin.math.pow

/**
 * RTMDet, SCRFD and FCOS: boxes as plain distances from a place in each cell, five landmarks of a face beside them.
 *
 * Distances left, top, right, bottom, in strides; score = (sigmoid(class) * sigmoid(centerness)) ^ power, without a
 * centerness sigmoid(class) ^ power.
 */
internal class Distances(options: Fields) : Decoder {
    companion object : Family("distances", attachments = listOf("keypoints")) {
        override fun open(options: Fields) = Distances(options)
    }

    override val family get() = Distances

    private val strides = options.read("strides", Read.list(Read.count))
    private val perCell = options.read("per_cell", Read.count, or = 1)
    private val cellOffset = options.read("cell_offset", Read.float, or = 0.0).toFloat()
    private val isExponential = options.read("exponential", Read.bool, or = false)
    private val hasCenterness = options.read("centerness", Read.bool, or = false)
    private val power = options.read("power", Read.positive, or = 1.0)

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val boxHeads = heads.levels("boxes", strides.size)
        val classHeads = heads.levels("classes", strides.size)
        val centers = if (hasCenterness) heads.levels("centerness", strides.size) else null
        val cut = logit(if (threshold > 0) threshold.pow(1 / power) else threshold)
        val found = Found()
        var first = 0
        for ((level, stride) in strides.withIndex()) {
            val grid = Grid.of(classHeads[level], frame, stride.toDouble())
            val cells = grid.cells
            val logits = grid.planes(classHeads[level], perCell * frame.classes)
            val boxes = grid.planes(boxHeads[level], 4 * perCell)
            val central = centers?.let { grid.planes(it[level], perCell) }
            if (central != null) checkFinite(central)
            for (kind in 0 until perCell) {
                val best = survivors(logits, kind * frame.classes * cells, frame.classes, cells, cut)
                for (cell in 0 until cells) {
                    if (!(best.values[cell] > cut)) continue // a product passes only where both factors do
                    var score = sigmoid(best.values[cell])
                    if (central != null) score *= sigmoid(central[kind * cells + cell])
                    if (power != 1.0) score = score.pow(power.toFloat())
                    if (!(score > threshold.toFloat())) continue
                    val reach = FloatArray(4) { side ->
                        val value = finite(boxes[(4 * kind + side) * cells + cell])
                        if (isExponential) exp(value) else value
                    }
                    val box = boxAround(grid.column(cell) + cellOffset, grid.row(cell) + cellOffset, reach, stride.toFloat())
                    found.add(box, score, best.classIds[cell], first + cell * perCell + kind)
                }
            }
            first += cells * perCell
        }
        return found.candidates()
    }

    /** Keypoints (n, k, 3) at (value + cell + cell_offset) * stride. */
    override fun attach(role: String, heads: Heads, frame: InputFrame, anchors: IntArray): Attached {
        val places = places(heads.levels("keypoints"), anchors, strides.map { perCell })
        val found = points(places.attached, frame.keypoints)
        val data = found.data
        found.eachPoint { i, at ->
            val stride = strides[places.levels[i]].toFloat()
            data[at] = (data[at] + places.columns[i] + cellOffset) * stride
            data[at + 1] = (data[at + 1] + places.rows[i] + cellOffset) * stride
        }
        return found
    }
}
