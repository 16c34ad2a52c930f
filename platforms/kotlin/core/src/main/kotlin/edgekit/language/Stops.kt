package edgekit

/** The text before the first of these stop texts; the whole text if none occurs. */
internal fun cut(text: String, stop: List<String>): String = text.findAnyOf(stop)?.let { (place, _) -> text.substring(0, place) } ?: text

/** [cut] for a text in pieces: what is sure of each. A possible beginning of a stop text is held back until it is decided. */
internal class Cutter(private val stop: List<String>) {
    /** What was held back; when no more pieces come, it is the rest. */
    var held = ""
        private set

    /** Whether a stop text was found. */
    var ended = false
        private set

    /** What is sure after another piece. */
    fun add(piece: String): String {
        held += piece
        val whole = cut(held, stop)
        ended = whole.length != held.length
        val sure = if (ended) whole else held.dropLast(begun())
        held = if (ended) "" else held.substring(sure.length)
        return sure
    }

    /** Length of the longest ending that begins a stop text. */
    private fun begun(): Int = stop.maxOfOrNull { one -> (minOf(one.length, held.length) downTo 0).first { held.endsWith(one.substring(0, it)) } } ?: 0
}
