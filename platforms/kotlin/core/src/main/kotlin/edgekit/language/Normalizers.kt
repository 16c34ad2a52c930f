package edgekit

import java.text.Normalizer.Form
import java.util.Base64
import java.util.Locale
import java.util.regex.Pattern

/** What a tokenizer does to a text before it looks for tokens. */
internal typealias Normalizer = (String) -> String

internal fun normalizer(part: Part): Normalizer = when (val type = part.text("type")) {
    "Sequence" -> inSequence(part.list("normalizers").map(::normalizer))
    "Precompiled" -> CharsMap(part.text("precompiled_charsmap"))::normalize
    "Strip" -> strip(part.flag("strip_left"), part.flag("strip_right"))
    "Replace" -> replacer(part)
    "Lowercase" -> ::lower
    "NFC", "NFD", "NFKC", "NFKD" -> inForm(Form.valueOf(type))
    "BertNormalizer" -> bert(part)
    else -> throw part.unknown("is the normalizer '$type'")
}

private fun inSequence(all: List<Normalizer>): Normalizer = { text -> all.fold(text) { made, one -> one(made) } }

private fun inForm(form: Form): Normalizer = { java.text.Normalizer.normalize(it, form) }

private fun lower(text: String): String = eachLetter(text) { text(it).lowercase(Locale.ROOT) }

private fun strip(left: Boolean, right: Boolean): Normalizer = { text ->
    // No space is beyond the first 65,536 characters of Unicode.
    val begun = if (left) text.trimStart { isSpace(it.code) } else text
    if (right) begun.trimEnd { isSpace(it.code) } else begun
}

/** A text, or repeated spaces: no published file of OPT's, T5's or BERT's has another pattern. */
private fun replacer(part: Part): Normalizer {
    val (pattern, content) = part.obj("pattern") to part.text("content")
    if (pattern.has("String")) {
        val old = pattern.text("String")
        return { if (old.isEmpty()) it else it.replace(old, content) }
    }
    val regex = pattern.text("Regex")
    if (!Regex(" \\{\\d+,\\}").matches(regex)) throw part.unknown("replaces the pattern '$regex'")
    val spaces = Regex(regex)
    return { spaces.replace(it) { content } }
}

/** BERT's: control characters out, spaces around ideographs, accents off, small letters. */
private fun bert(part: Part): Normalizer {
    val (clean, ideographs) = part.flag("clean_text") to part.flag("handle_chinese_chars")
    val isLower = part.flag("lowercase")
    val bare = part.flag("strip_accents", or = isLower)
    return { text ->
        var made = text
        if (clean) made = eachLetter(made, ::cleaned)
        if (ideographs) made = eachLetter(made) { if (isIdeograph(it)) " ${text(it)} " else text(it) }
        if (bare) {
            made = eachLetter(java.text.Normalizer.normalize(made, Form.NFD)) {
                if (Character.getType(it).toByte() == Character.NON_SPACING_MARK) "" else text(it)
            }
        }
        if (isLower) lower(made) else made
    }
}

private fun cleaned(letter: Int): String = when {
    letter == '\t'.code || letter == '\n'.code || letter == '\r'.code -> " "
    letter == 0xFFFD -> ""
    else -> when (Character.getType(letter).toByte()) {
        Character.CONTROL, Character.FORMAT, Character.PRIVATE_USE -> ""
        else -> if (isSpace(letter)) " " else text(letter)
    }
}

/** CJK as BERT counts it; neither kana nor hangul. */
private fun isIdeograph(letter: Int): Boolean = when (letter) {
    in 0x4E00..0x9FFF, in 0x3400..0x4DBF, in 0x20000..0x2A6DF, in 0x2A700..0x2B73F, in 0x2B740..0x2B81F, in 0x2B920..0x2CEAF, in 0xF900..0xFAFF,
    in 0x2F800..0x2FA1F,
    -> true
    else -> false
}

/** SentencePiece's table of replacements: a double array over UTF-8 bytes, then the texts, each with a 0 behind it. */
private class CharsMap(base64: String) {
    private val units: IntArray
    private val texts: ByteArray

    init {
        val bytes = try {
            Base64.getDecoder().decode(base64)
        } catch (problem: IllegalArgumentException) {
            throw invalidTokenizer("its precompiled_charsmap is not base64; convert the model again", problem)
        }
        fun unit(at: Int) = (0 until 4).fold(0) { sum, i -> sum or ((bytes[at + i].toInt() and 0xFF) shl (8 * i)) }
        val size = if (bytes.size >= 4) unit(0) else 0
        if (size < 4 || size % 4 != 0 || size > bytes.size - 4 || bytes.last() != 0.toByte()) {
            throw invalidTokenizer("its precompiled_charsmap is cut off; convert the model again")
        }
        units = IntArray(size / 4) { unit(4 + 4 * it) }
        texts = bytes.copyOfRange(4 + size, bytes.size)
    }

    fun normalize(text: String): String = buildString {
        val clusters = cluster.matcher(text)
        while (clusters.find()) {
            val bytes = clusters.group().toByteArray()
            val whole = if (bytes.size < WHOLE) replacement(bytes) else null
            append(whole ?: eachLetter(clusters.group()) { letter -> text(letter).let { replacement(it.toByteArray()) ?: it } })
        }
    }

    /** What stands for a text: that of its shortest beginning, as SentencePiece's readers have it. */
    private fun replacement(bytes: ByteArray): String? {
        var at = offset(units[0])
        for (one in bytes) {
            val byte = one.toInt() and 0xFF
            at = at xor byte
            if (byte == 0 || at !in units.indices || units[at] and 0x800000FF.toInt() != byte) return null
            val unit = units[at]
            at = at xor offset(unit)
            if (unit and 0x100 != 0) {
                if (at !in units.indices) return null
                val start = (units[at] and 0x7FFFFFFF).coerceAtMost(texts.size)
                val end = (start until texts.size).firstOrNull { texts[it] == 0.toByte() } ?: texts.size
                return String(texts, start, end - start)
            }
        }
        return null
    }

    /** How far the children of a unit are. */
    private fun offset(unit: Int): Int = (unit ushr 10) shl ((unit and 0x200) ushr 6)

    private companion object {
        /** The longest cluster, in bytes, that is looked up as a whole, less one. */
        const val WHOLE = 6

        /** What a reader takes for one character. */
        val cluster: Pattern = Pattern.compile("\\X")
    }
}
