package edgekit

import kotlin.math.exp
import kotlin.math.pow
import kotlin.math.tanh

/** FastestDet: one level of cells; score = objectness^0.6 * class^0.4, centre = (tanh(xy) + cell) / grid, size = sigmoid. */
internal class FastestDet(options: Fields) : Decoder {
    companion object : Family("fastestdet") {
        override fun open(options: Fields) = FastestDet(options)
    }

    override val family get() = FastestDet

    private val power = options.read("objectness_power", Read.positive, or = 0.6)
    private val classPower = options.read("class_power", Read.positive, or = 0.4)
    private val isActivated = options.read("activated", Read.bool, or = false)

    /** Channels of a head as a head of their own. */
    private fun part(head: Tensor, from: Int, to: Int): Tensor {
        val cells = head.shape[2] * head.shape[3]
        return Tensor(head.data.copyOfRange(from * cells, to * cells), listOf(1, to - from, head.shape[2], head.shape[3]))
    }

    /** Objectness, boxes and classes. */
    private fun split(heads: Heads): Triple<Tensor, Tensor, Tensor> {
        if (!isActivated) return Triple(heads.only("objectness"), heads.only("boxes"), heads.only("classes"))
        val fused = heads.only("predictions")
        if (fused.shape.size != 4 || fused.shape[0] != 1 || fused.shape[1] <= 5) {
            throw Misfit("${fused.shown} where (1, 5 + classes, rows, columns) is needed")
        }
        return Triple(part(fused, 0, 1), part(fused, 1, 5), part(fused, 5, fused.shape[1]))
    }

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val (objectness, boxes, classes) = split(heads)
        Grid.checkPlanes(classes)
        val grid = Grid(classes.shape[2], classes.shape[3])
        val cells = grid.cells
        val presence = grid.planes(objectness, 1)
        checkFinite(presence)
        val values = grid.planes(classes, frame.classes)
        val raw = grid.planes(boxes, 4)
        // The class factor is at most 1, so the objectness alone has to pass before any softmax is worth its time.
        val least = if (threshold > 0) threshold.pow(1 / power) else -1.0
        val cut = if (isActivated) least.toFloat() else logit(least)
        val (width, height) = frame.width.toFloat() to frame.height.toFloat()
        val found = Found()
        for (cell in 0 until cells) {
            if (!(presence[cell] > cut)) continue
            val classId = likeliest(values, cell, cells, frame.classes)
            val best = probability(values, classId, cell, cells, frame.classes)
            val confidence = if (isActivated) presence[cell] else sigmoid(presence[cell])
            val score = (confidence.toDouble().pow(power) * best.toDouble().pow(classPower)).toFloat()
            if (!(score > threshold.toFloat())) continue
            val place = FloatArray(4) { finite(raw[it * cells + cell]) }
            found.add(
                (tanh(place[0]) + grid.column(cell)) / grid.columns * width, (tanh(place[1]) + grid.row(cell)) / grid.rows * height,
                sigmoid(place[2]) * width, sigmoid(place[3]) * height, score, classId, cell,
            )
        }
        return found.candidates()
    }

    /** The likeliest class of a cell. */
    private fun likeliest(values: FloatArray, cell: Int, cells: Int, classes: Int): Int {
        var (classId, best) = 0 to Float.NEGATIVE_INFINITY
        for (c in 0 until classes) {
            val value = finite(values[c * cells + cell])
            if (value > best) {
                classId = c
                best = value
            }
        }
        return classId
    }

    private fun probability(values: FloatArray, classId: Int, cell: Int, cells: Int, classes: Int): Float {
        val best = values[classId * cells + cell]
        if (isActivated) return maxOf(best, 0f)
        var total = 0f
        for (c in 0 until classes) total += exp(values[c * cells + cell] - best)
        return 1 / total
    }
}
