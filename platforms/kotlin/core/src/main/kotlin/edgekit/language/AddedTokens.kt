package edgekit

/** Tokens beside the model's own, which are looked for in the text first: `<image>`, `</s>`. */
internal class AddedTokens(parts: List<Part>, normalize: Normalizer) {
    private class Token(
        val id: Int,
        val content: IntArray,
        /** Only where no letter or number is beside it. */
        val isSingle: Boolean,
        /** Takes the spaces on its left or right. */
        val left: Boolean,
        val right: Boolean,
    )

    /** A token, or a text in which there is none; [first] where it begins the whole. */
    class Split(val id: Int?, val text: String, val first: Boolean)

    val contents: Map<Int, String> = parts.associate { it.number("id") to it.text("content") }
    val special: Set<String> = parts.filter { it.flag("special") }.map { it.text("content") }.toSet()

    /** Those that are looked for in the text as it is, and those in the normalised text; the longest first. */
    private val plain = tokens(parts.filter { !it.flag("normalized") }) { it }
    private val normal = tokens(parts.filter { it.flag("normalized") }, normalize)

    private fun tokens(parts: List<Part>, shown: Normalizer): List<Token> = parts.map {
        Token(it.number("id"), letters(shown(it.text("content"))), it.flag("single_word"), it.flag("lstrip"), it.flag("rstrip"))
    }.filter { it.content.isNotEmpty() }.sortedByDescending { it.content.size }

    /** A text in tokens and normalised texts between them. */
    fun split(text: String, normalize: Normalizer): List<Split> =
        found(text, plain, true).flatMap { if (it.id == null) found(normalize(it.text), normal, it.first) else listOf(it) }

    private fun found(given: String, tokens: List<Token>, first: Boolean): List<Split> {
        val (text, splits) = letters(given) to ArrayList<Split>()
        var (begun, at) = 0 to 0
        fun between(end: Int) {
            if (begun < end) splits.add(Split(null, text.text(begun, end), first && begun == 0))
        }
        while (at < text.size) {
            val token = tokens.firstOrNull { text.has(it.content, at) }
            if (token == null) {
                at++
                continue
            }
            var (start, stop) = at to at + token.content.size
            at = stop
            if (token.isSingle && ((start > 0 && isWord(text[start - 1])) || (stop < text.size && isWord(text[stop])))) continue
            if (token.left) while (start > begun && isSpace(text[start - 1])) start--
            if (token.right) while (stop < text.size && isSpace(text[stop])) stop++
            between(start)
            splits.add(Split(token.id, text.text(start, stop), false))
            begun = stop
            at = maxOf(at, stop)
        }
        between(text.size)
        return splits
    }
}
