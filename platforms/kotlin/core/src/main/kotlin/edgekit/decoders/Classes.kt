package edgekit

import kotlin.math.exp

/** Classification heads: one value a class for the whole input. */
internal class Classes(options: Fields) : Decoder {
    companion object : Family("classes", task = "classify") {
        override fun open(options: Fields) = Classes(options)
    }

    override val family get() = Classes

    val isSigmoid = options.read("activation", Read.word("softmax", "sigmoid"), or = "softmax") == "sigmoid"
    private val isActivated = options.read("activated", Read.bool, or = false)

    /** Scores of all classes in 0..1. Throws [Misfit]: another number of values. [EdgeKitException.Engine]: not finite. */
    fun scores(heads: Heads, classes: Int): FloatArray {
        val data = heads.only("logits").data
        if (data.size != classes) throw Misfit("${data.size} values where $classes are needed, one for each class")
        checkFinite(data)
        if (isActivated || data.isEmpty()) return data
        if (isSigmoid) return FloatArray(data.size) { sigmoid(data[it]) }
        val most = data.max()
        val weights = DoubleArray(data.size) { exp((data[it] - most).toDouble()) }
        val total = weights.sum()
        return FloatArray(data.size) { (weights[it] / total).toFloat() }
    }

    /** The classes of the whole input: the best one, or with `sigmoid` all above the threshold. */
    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val scores = scores(heads, frame.classes)
        val found = Found()
        for (id in descending(scores).take(if (isSigmoid) scores.size else 1)) {
            if (!(scores[id] > threshold.toFloat())) continue
            found.add(Box(0f, 0f, frame.width.toFloat(), frame.height.toFloat()), scores[id], id, if (isSigmoid) id else 0)
        }
        return found.candidates()
    }
}
