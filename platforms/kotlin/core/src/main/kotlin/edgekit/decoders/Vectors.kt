package edgekit

import kotlin.math.sqrt

/** Embedding heads: one vector for the whole input, at unit length. */
internal class Vectors : Decoder {
    companion object : Family("vector", task = "embed") {
        override fun open(options: Fields) = Vectors()
    }

    override val family get() = Vectors

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val head = heads.only("vector")
        if (head.data.size != (head.shape.maxOrNull() ?: 0)) throw Misfit("${head.shown} is not one vector")
        checkFinite(head.data)
        val length = sqrt(head.data.sumOf { it.toDouble() * it })
        val unit = if (length > 0) FloatArray(head.data.size) { (head.data[it] / length).toFloat() } else head.data
        val found = Found()
        found.add(Box(0f, 0f, frame.width.toFloat(), frame.height.toFloat()), 1f, 0, 0)
        return found.candidates(Attached(unit, unit.size))
    }
}
