package edgekit

import kotlin.math.exp

/**
 * YOLOv3, YOLOv5 and YOLOv7: boxes as changes of anchors, several in each cell. One convolution a level, anchor after
 * anchor: x, y, width, height, objectness, classes.
 *
 * score = sigmoid(objectness) * sigmoid(class). YOLOv5 and 7: centre (2 sigmoid(x, y) - 0.5 + cell) * stride, size
 * (2 sigmoid(w, h))^2 * anchor; YOLOv3: (sigmoid(x, y) + cell) * stride, and exp(w, h) * anchor.
 */
internal class Anchors(options: Fields) : Decoder {
    companion object : Family("anchors") {
        override fun open(options: Fields) = Anchors(options)
    }

    override val family get() = Anchors

    private val strides = options.read("strides", Read.list(Read.count))
    private val anchors = options.read("anchors", Read.list(Read.list(Read.listOf(2, Read.positive))))
    private val isExponential = options.read("sizes", Read.word("squared", "exponential"), or = "squared") == "exponential"

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val every = heads.levels("predictions", strides.size)
        if (anchors.size != strides.size) throw Misfit("${anchors.size} levels of anchors for ${strides.size} strides")
        val found = Found()
        var first = 0
        for ((level, stride) in strides.withIndex()) {
            val grid = Grid.of(every[level], frame, stride.toDouble())
            val values = grid.planes(every[level], anchors[level].size * (5 + frame.classes))
            for ((kind, prior) in anchors[level].withIndex()) {
                val base = kind * (5 + frame.classes) * grid.cells
                scan(values, base, grid, stride.toFloat(), prior, frame.classes, threshold, first + kind * grid.cells, found)
            }
            first += grid.cells * anchors[level].size
        }
        return found.candidates()
    }

    /** The candidates of one anchor. */
    private fun scan(
        values: FloatArray, base: Int, grid: Grid, stride: Float, prior: List<Double>, classes: Int, threshold: Double, first: Int, found: Found,
    ) {
        val (cut, cells) = logit(threshold) to grid.cells
        checkFinite(values, base + 4 * cells, base + 5 * cells)
        val best = survivors(values, base + 5 * cells, classes, cells, cut)
        for (cell in 0 until cells) {
            val present = values[base + 4 * cells + cell]
            if (!(present > cut && best.values[cell] > cut)) continue
            val score = sigmoid(present) * sigmoid(best.values[cell])
            if (!(score > threshold.toFloat())) continue
            val raw = FloatArray(4) { finite(values[base + it * cells + cell]) }
            var (x, y) = sigmoid(raw[0]) to sigmoid(raw[1])
            var (width, height) = prior[0].toFloat() to prior[1].toFloat()
            if (isExponential) {
                width *= exp(raw[2])
                height *= exp(raw[3])
            } else {
                x = 2 * x - 0.5f
                y = 2 * y - 0.5f
                val (w, h) = 2 * sigmoid(raw[2]) to 2 * sigmoid(raw[3])
                width *= w * w
                height *= h * h
            }
            found.add((x + grid.column(cell)) * stride, (y + grid.row(cell)) * stride, width, height, score, best.classIds[cell], first + cell)
        }
    }
}
