package edgekit

/** The words of a piece of text, each of which becomes tokens by itself; the flag says that the piece begins the text. */
internal typealias PreTokenizer = (String, Boolean) -> List<String>

internal fun preTokenizer(part: Part): PreTokenizer = when (val type = part.text("type")) {
    "Sequence" -> inSequence(part.list("pretokenizers").map(::preTokenizer))
    "ByteLevel" -> byteLevel(part.flag("add_prefix_space"), part.flag("use_regex", or = true))
    "Metaspace" -> metaspace(Metaspace(part), part.flag("split", or = true))
    "WhitespaceSplit" -> { text, _ -> spaced(text) }
    "BertPreTokenizer" -> { text, _ -> spaced(text).flatMap(::atPunctuation) }
    else -> throw part.unknown("is the pre_tokenizer '$type'")
}

private fun inSequence(all: List<PreTokenizer>): PreTokenizer = { text, first ->
    all.fold(listOf(text)) { words, one -> words.flatMapIndexed { place, word -> one(word, first && place == 0) } }
}

private fun byteLevel(prefix: Boolean, split: Boolean): PreTokenizer = { text, _ ->
    val whole = if (prefix && !text.startsWith(" ")) " $text" else text
    (if (split) gpt2(whole) else listOf(whole)).map { ByteLetters.of(it.toByteArray()) }
}

/** The mark that stands for a space, and where one is put in front: `always`, `first` or `never`. */
internal class Metaspace(part: Part) {
    val mark = part.text("replacement")
    val scheme = if (part.has("prepend_scheme")) part.text("prepend_scheme") else if (part.flag("add_prefix_space", or = true)) "always" else "never"

    init {
        if (scheme !in setOf("always", "first", "never")) throw part.unknown("has the prepend_scheme '$scheme'")
        if (letters(mark).size != 1) throw part.wrong("has a replacement that is not one letter")
    }
}

private fun metaspace(space: Metaspace, split: Boolean): PreTokenizer = { text, first ->
    var marked = text.replace(" ", space.mark)
    if ((space.scheme == "always" || (space.scheme == "first" && first)) && !marked.startsWith(space.mark)) marked = space.mark + marked
    if (split) {
        val words = marked.split(space.mark)
        listOf(words[0]).filter { it.isNotEmpty() } + words.drop(1).map { space.mark + it }
    } else {
        listOf(marked)
    }
}

private fun spaced(text: String): List<String> = text.split { isSpace(it.code) }

private inline fun String.split(isBetween: (Char) -> Boolean): List<String> {
    val words = ArrayList<String>()
    var begun = 0
    for (at in 0..length) {
        if (at < length && !isBetween(this[at])) continue
        if (begun < at) words.add(substring(begun, at))
        begun = at + 1
    }
    return words
}

private fun atPunctuation(word: String): List<String> {
    val words = ArrayList<StringBuilder>()
    var isOpen = false
    for (letter in letters(word)) {
        val isSign = isPunctuation(letter)
        if (isSign || !isOpen) words.add(StringBuilder())
        words.last().appendCodePoint(letter)
        isOpen = !isSign
    }
    return words.map { it.toString() }
}

private val endings = listOf("'s", "'t", "'re", "'ve", "'m", "'ll", "'d").map(::letters)

/** GPT-2's words: endings of English words; letters, numbers or other signs with a space in front; and spaces. */
private fun gpt2(given: String): List<String> {
    val (text, words) = letters(given) to ArrayList<String>()
    var at = 0
    while (at < text.size) {
        val end = at + (endings.firstOrNull { text.has(it, at) }?.size ?: gpt2Word(text, at))
        words.add(text.text(at, end))
        at = end
    }
    return words
}

/** How long the word at a place is. */
private fun gpt2Word(text: IntArray, at: Int): Int {
    fun end(start: Int, fits: (Int) -> Boolean): Int = (start until text.size).firstOrNull { !fits(text[it]) } ?: text.size
    val start = if (text[at] == ' '.code) at + 1 else at
    for (fits in listOf<(Int) -> Boolean>(Character::isLetter, ::isNumber, { !isSpace(it) && !Character.isLetter(it) && !isNumber(it) })) {
        val found = end(start, fits)
        if (found > start) return found - at
    }
    val found = end(at, ::isSpace)
    // The last space belongs to the word behind it.
    return if (found < text.size && found > at + 1) found - at - 1 else found - at
}

/** Whether these letters stand at a place. */
internal fun IntArray.has(other: IntArray, at: Int): Boolean = at + other.size <= size && other.indices.all { this[at + it] == other[it] }

/** The letter that stands for each byte in byte-level tokens: itself where it can be seen, else one from U+0100 on. */
internal object ByteLetters {
    private val letters: String = buildString {
        var next = 256
        for (byte in 0 until 256) append((if (byte in 33..126 || byte in 161..172 || byte >= 174) byte else next++).toChar())
    }

    private val bytes: Map<Char, Byte> = letters.withIndex().associate { (byte, letter) -> letter to byte.toByte() }

    fun of(bytes: ByteArray): String = buildString { for (byte in bytes) append(letters[byte.toInt() and 0xFF]) }

    /** The bytes that these letters stand for; null where one stands for none. */
    fun bytes(token: String): ByteArray? {
        val found = token.map { bytes[it] ?: return null }
        return found.toByteArray()
    }
}
