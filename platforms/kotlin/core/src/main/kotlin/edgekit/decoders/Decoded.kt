package edgekit

import kotlin.math.truncate

/** Boxes that the graph decoded itself, and keypoints, mask coefficients or angles beside them. */
internal class Decoded(options: Fields) : Decoder {
    companion object : Family("decoded", attachments = listOf("coefficients", "keypoints", "angles")) {
        override fun open(options: Fields) = Decoded(options)
    }

    override val family get() = Decoded

    private enum class Layout { CHANNELS, ROWS, DETECTIONS, SEPARATE }

    private val layout = options.read("layout", Read.word(), or = Layout.CHANNELS)
    private val boxFormat = options.read("box_format", Read.word("xyxy", "xywh"), or = "xywh")
    private val isNormalized = options.read("normalized", Read.bool, or = false)
    private val hasObjectness = options.read("objectness", Read.bool, or = false)
    private val areLogits = options.read("logits", Read.bool, or = false)
    private val attached = options.read("attached", Read.int(0, 1 shl 16), or = 0)

    /** A table of rows by value. */
    private class Table(head: Tensor, isTransposed: Boolean) {
        private val all = matrix(head)
        val rows = if (isTransposed) all.columns else all.rows
        val width = if (isTransposed) all.rows else all.columns
        private val rowStep = if (isTransposed) 1 else all.columns
        private val step = if (isTransposed) all.columns else 1

        operator fun get(row: Int, k: Int): Float = all.data[row * rowStep + k * step]
    }

    private fun whole(heads: Heads) = Table(heads.only("predictions"), layout == Layout.CHANNELS)

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        if (layout == Layout.SEPARATE) {
            val boxes = heads.only("boxes")
            if (boxes.shape.lastOrNull() != 4) throw Misfit("boxes end in ${boxes.shape.lastOrNull() ?: 0} where 4 is needed")
            val classes = Table(heads.only("classes"), false)
            return scored(Table(boxes, false), classes, classes.width, 0, frame, threshold)
        }
        val table = whole(heads)
        val width = table.width - attached
        return if (layout == Layout.DETECTIONS) detections(table, width, frame, threshold) else scored(table, table, width, 4, frame, threshold)
    }

    /** Candidates of a table with boxes in front and one with values from [from] on to [end], an objectness perhaps first. */
    private fun scored(boxes: Table, values: Table, end: Int, from: Int, frame: InputFrame, threshold: Double): Candidates {
        val first = from + if (hasObjectness) 1 else 0
        val (width, wanted) = end + 4 - from to 4 + (first - from) + frame.classes
        if (width != wanted || boxes.rows != values.rows || frame.classes == 0) {
            throw Misfit("$width values for each box, but $wanted are needed for ${frame.classes} classes")
        }
        val found = Found()
        for (row in 0 until values.rows) {
            var (best, classId) = values[row, first] to 0
            for (c in 1 until frame.classes) {
                if (!best.isNaN() && !(values[row, first + c] <= best)) {
                    best = values[row, first + c]
                    classId = c
                }
            }
            var score = activated(finite(best))
            if (hasObjectness) score *= activated(finite(values[row, first - 1]))
            if (score > threshold.toFloat()) add(found, boxes, row, frame, score, classId)
        }
        return found.candidates()
    }

    private fun activated(value: Float): Float = if (areLogits) sigmoid(value) else value

    /** Candidates of rows x1, y1, x2, y2, score, class. */
    private fun detections(table: Table, width: Int, frame: InputFrame, threshold: Double): Candidates {
        if (width != 6) throw Misfit("$width values for each box, but 6 are needed: x1, y1, x2, y2, score, class")
        val found = Found()
        for (row in 0 until table.rows) {
            val score = finite(table[row, 4])
            val number = truncate(finite(table[row, 5]))
            // Rows that the graph only fills up with have no score, and sometimes the class -1.
            if (!(score > 0 || score > threshold.toFloat())) continue
            if (!(number >= 0 && number < frame.classes)) throw Misfit("class $number, but the contract names ${frame.classes} classes")
            if (score > threshold.toFloat()) add(found, table, row, frame, score, number.toInt())
        }
        return found.candidates()
    }

    private fun add(found: Found, table: Table, row: Int, frame: InputFrame, score: Float, classId: Int) {
        val (a, b, c, d) = box(table, row, frame)
        if (boxFormat == "xywh") found.add(a, b, c, d, score, classId, row) else found.add(Box(a, b, c, d), score, classId, row)
    }

    /** The four values of a box, in input pixels. */
    private fun box(table: Table, row: Int, frame: InputFrame): FloatArray {
        val (x, y) = if (isNormalized) frame.width.toFloat() to frame.height.toFloat() else 1f to 1f
        return FloatArray(4) { table[row, it] * if (it % 2 == 0) x else y }
    }

    override fun attach(role: String, heads: Heads, frame: InputFrame, anchors: IntArray): Attached {
        val table = whole(heads)
        val first = table.width - attached
        val values = Attached(FloatArray(anchors.size * attached) { table[anchors[it / attached], first + it % attached] }, attached)
        if (role == "coefficients") return values
        if (role == "angles") return oriented(table, values, frame, anchors)
        val found = points(values, frame.keypoints)
        if (isNormalized) {
            found.eachPoint { _, at ->
                found.data[at] *= frame.width.toFloat()
                found.data[at + 1] *= frame.height.toFloat()
            }
        }
        return found
    }

    /** Oriented boxes (n, 5): centre and size before the scores, the angle behind them. */
    private fun oriented(table: Table, turned: Attached, frame: InputFrame, anchors: IntArray): Attached {
        if (attached != 1 || boxFormat != "xywh") {
            throw Misfit("decoded oriented boxes are box_format: xywh with attached: 1, the angle in radians, not $boxFormat with $attached")
        }
        val data = FloatArray(5 * anchors.size)
        for ((i, row) in anchors.withIndex()) {
            box(table, row, frame).copyInto(data, 5 * i)
            data[5 * i + 4] = turned.data[i]
        }
        return Attached(data, 5)
    }
}
