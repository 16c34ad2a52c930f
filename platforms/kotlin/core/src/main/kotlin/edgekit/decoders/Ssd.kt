package edgekit

import kotlin.math.exp

/**
 * SSD, RetinaNet, RetinaFace, BlazeFace and EfficientDet: boxes as differences from priors, landmarks beside them.
 *
 * Offsets of a prior's centre and log ratios of its size (Liu et al., SSD, 2016); channels are prior-major.
 */
internal class Ssd(options: Fields) : Decoder {
    companion object : Family("ssd", attachments = listOf("keypoints")) {
        override fun open(options: Fields) = Ssd(options)
    }

    override val family get() = Ssd

    private val strides = options.read("strides", Read.list(Read.positive))
    private val priors = options.read("priors", Read.list(Read.list(Read.listOf(2, Read.positive))))
    private val variances = options.read("variances", Read.listOf(4, Read.float), or = listOf(0.1, 0.1, 0.2, 0.2)).map { it.toFloat() }
    private val isSigmoid = options.read("score", Read.word("softmax", "sigmoid"), or = "softmax") == "sigmoid"
    private val backgroundIsFirst = options.read("background", Read.word("first", "last"), or = "first") == "first"
    private val isLog = options.read("sizes", Read.word("log", "plain"), or = "log") == "log"
    private val order = if (options.read("order", Read.word("xywh", "yxhw"), or = "xywh") == "xywh") listOf(0, 1, 2, 3) else listOf(1, 0, 3, 2)
    private val cellOffset = options.read("cell_offset", Read.float, or = 0.5).toFloat()

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        if (priors.size != strides.size) throw Misfit("${priors.size} levels of priors for ${strides.size} strides")
        val boxHeads = heads.levels("boxes", strides.size)
        val classHeads = heads.levels("classes", strides.size)
        val count = frame.classes + if (isSigmoid) 0 else 1
        val whole = 4 + 2 * frame.keypoints // boxes may have their keypoints behind them
        val found = Found()
        var first = 0
        for ((level, step) in strides.withIndex()) {
            val kinds = priors[level].size
            val grid = Grid.of(classHeads[level], frame, step)
            val (cells, stride) = grid.cells to step.toFloat()
            val logits = grid.planes(classHeads[level], kinds * count)
            Grid.checkPlanes(boxHeads[level])
            val row = if (boxHeads[level].shape[1] == kinds * whole) whole else 4
            val values = grid.planes(boxHeads[level], kinds * row)
            for ((kind, prior) in priors[level].withIndex()) {
                val best = scored(logits, kind * count * cells, count, cells)
                val (width, height) = prior[0].toFloat() to prior[1].toFloat()
                for (cell in 0 until cells) {
                    if (!(best.values[cell] > threshold.toFloat())) continue
                    val shift = FloatArray(4) { finite(values[(kind * row + order[it]) * cells + cell]) * variances[it] }
                    found.add(
                        (grid.column(cell) + cellOffset) * stride + shift[0] * width, (grid.row(cell) + cellOffset) * stride + shift[1] * height,
                        (if (isLog) exp(shift[2]) else shift[2]) * width, (if (isLog) exp(shift[3]) else shift[3]) * height,
                        best.values[cell], best.classIds[cell], first + cell * kinds + kind,
                    )
                }
            }
            first += cells * kinds
        }
        return found.candidates()
    }

    /** Best score and class of every cell of one prior. */
    private fun scored(logits: FloatArray, first: Int, count: Int, cells: Int): Best {
        val best = bestOf(logits, first, count, cells)
        if (isSigmoid) return Best(FloatArray(cells) { sigmoid(best.values[it]) }, best.classIds)
        val from = if (backgroundIsFirst) 1 else 0
        for (cell in 0 until cells) {
            fun logit(c: Int): Float = logits[first + c * cells + cell]
            // A logit may be -infinity: certain that it is not this class.
            var classId = 0
            for (c in 1 until count - 1) if (logit(from + c) > logit(from + classId)) classId = c
            val most = best.values[cell]
            var total = 0.0
            for (c in 0 until count) total += exp((logit(c) - most).toDouble())
            best.values[cell] = (exp((logit(from + classId) - most).toDouble()) / total).toFloat()
            best.classIds[cell] = classId
        }
        return best
    }

    /** Keypoints (n, k, 3) as offsets from the prior's centre in its sizes: in heads of their own, or behind the box. */
    override fun attach(role: String, heads: Heads, frame: InputFrame, anchors: IntArray): Attached {
        val hasOwn = heads.has("keypoints")
        val places = places(heads.levels(if (hasOwn) "keypoints" else "boxes"), anchors, priors.map { it.size })
        val skipped = if (hasOwn) 0 else 4
        val width = places.width - skipped
        if (width < 1) throw Misfit("${places.width} channels for each box where keypoints are behind 4")
        val behind = FloatArray(anchors.size * width) { places.values[it / width * places.width + skipped + it % width] }
        val found = points(Attached(behind, width), frame.keypoints)
        val data = found.data
        found.eachPoint { i, at ->
            val stride = strides[places.levels[i]].toFloat()
            val prior = priors[places.levels[i]][places.kinds[i]]
            data[at] = (places.columns[i] + cellOffset) * stride + data[at] * variances[0] * prior[0].toFloat()
            data[at + 1] = (places.rows[i] + cellOffset) * stride + data[at + 1] * variances[1] * prior[1].toFloat()
        }
        return found
    }
}
