package edgekit

import kotlin.math.exp

/**
 * Detection transformers: a set of queries, each with a box and a score for every class, without anchors and NMS.
 * DETR, YOLOS: softmax; Deformable DETR, RT-DETR, D-FINE: sigmoid, several classes a query.
 */
internal class Queries(options: Fields) : Decoder {
    companion object : Family("queries") {
        override fun open(options: Fields) = Queries(options)
    }

    override val family get() = Queries

    private val isSigmoid = options.read("score", Read.word("sigmoid", "softmax"), or = "sigmoid") == "sigmoid"

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val logits = matrix(heads.only("classes"))
        val boxes = matrix(heads.only("boxes"))
        val wanted = frame.classes + if (isSigmoid) 0 else 1
        if (frame.classes == 0 || logits.columns != wanted || boxes.columns != 4 || boxes.rows != logits.rows) {
            throw Misfit("(1, n, $wanted) logits and (1, n, 4) boxes are needed")
        }
        checkFinite(logits.data)
        val found = Found()
        val (width, height) = frame.width.toFloat() to frame.height.toFloat()
        fun add(row: Int, classId: Int, score: Float) {
            val (x, y, w, h) = FloatArray(4) { boxes.data[4 * row + it] }
            found.add(x * width, y * height, w * width, h * height, score, classId, row * frame.classes + classId)
        }
        val cut = logit(threshold)
        for (row in 0 until logits.rows) {
            val at = row * logits.columns
            if (isSigmoid) {
                for (c in 0 until logits.columns) if (logits.data[at + c] > cut) add(row, c, sigmoid(logits.data[at + c]))
            } else {
                val (classId, best) = likeliest(logits.data, at, logits.columns)
                if (best > threshold.toFloat()) add(row, classId, best)
            }
        }
        return found.candidates()
    }

    /** The best class of a query but for the last one, no object, and its probability. */
    private fun likeliest(logits: FloatArray, at: Int, count: Int): Pair<Int, Float> {
        var classId = 0
        for (c in 1 until count - 1) if (logits[at + c] > logits[at + classId]) classId = c
        val most = maxOf(logits[at + classId], logits[at + count - 1])
        var total = 0.0
        for (c in 0 until count) total += exp((logits[at + c] - most).toDouble())
        return classId to (exp((logits[at + classId] - most).toDouble()) / total).toFloat()
    }
}
