package edgekit

import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

/**
 * JSON that keeps how numbers were written.
 *
 * The digest of a manifest is a hash of its canonical form, in which 1 and 1.0 differ.
 */
internal sealed class Json {
    object Null : Json()

    class Bool(val value: Boolean) : Json()

    class Text(val value: String) : Json()

    /** A number and how it was written. */
    class Number(val text: String) : Json() {
        val value: Double = text.toDouble()

        /** Whether it was written without point and exponent. */
        val isWhole: Boolean get() = text.none { it == '.' || it == 'e' || it == 'E' }
    }

    class List(val items: kotlin.collections.List<Json>) : Json()

    class Object(val entries: Map<String, Json>) : Json()

    /** Keys in the order of their code points, no spaces, numbers as they were written. */
    val canonical: String get() = StringBuilder().also { write(it) }.toString()

    private fun write(to: StringBuilder) {
        when (this) {
            is Null -> to.append("null")
            is Bool -> to.append(value)
            is Text -> write(value, to)
            is Number -> to.append(text)
            is List -> {
                to.append('[')
                items.forEachIndexed { place, item ->
                    if (place > 0) to.append(',')
                    item.write(to)
                }
                to.append(']')
            }
            is Object -> {
                to.append('{')
                entries.entries.sortedWith { a, b -> byCodePoints(a.key, b.key) }.forEachIndexed { place, (key, value) ->
                    if (place > 0) to.append(',')
                    write(key, to)
                    to.append(':')
                    value.write(to)
                }
                to.append('}')
            }
        }
    }

    companion object {
        /** Parse UTF-8 bytes. Throws [MalformedJson]. */
        fun parse(bytes: ByteArray): Json {
            val decoder = Charsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT).onUnmappableCharacter(CodingErrorAction.REPORT)
            val text = try {
                decoder.decode(ByteBuffer.wrap(bytes)).toString()
            } catch (problem: CharacterCodingException) {
                throw MalformedJson("a text in it is not UTF-8")
            }
            return Parser(text).whole()
        }

        /** Surrogates stand behind all other characters. */
        private fun byCodePoints(a: String, b: String): Int {
            for (i in 0 until minOf(a.length, b.length)) {
                if (a[i] != b[i]) {
                    return if (a[i].isSurrogate() != b[i].isSurrogate()) a[i].isSurrogate().compareTo(b[i].isSurrogate()) else a[i].compareTo(b[i])
                }
            }
            return a.length - b.length
        }

        /** A text with control characters escaped and all others left alone. */
        private fun write(value: String, to: StringBuilder) {
            to.append('"')
            for (letter in value) {
                when (letter) {
                    '"' -> to.append("\\\"")
                    '\\' -> to.append("\\\\")
                    '\b' -> to.append("\\b")
                    '\u000C' -> to.append("\\f")
                    '\n' -> to.append("\\n")
                    '\r' -> to.append("\\r")
                    '\t' -> to.append("\\t")
                    else -> if (letter < ' ') to.append("\\u").append(letter.code.toString(16).padStart(4, '0')) else to.append(letter)
                }
            }
            to.append('"')
        }
    }
}

/** Why a text is not JSON. */
internal class MalformedJson(message: String) : Exception(message)

private class Parser(private val text: String) {
    private var at = 0

    private val next: Char? get() = text.getOrNull(at)

    private fun wrong(what: String) = MalformedJson("JSON is malformed: $what (character $at)")

    fun whole(): Json {
        val found = value(0)
        space()
        if (at < text.length) throw wrong("trailing characters")
        return found
    }

    private fun space() {
        while (next == ' ' || next == '\t' || next == '\n' || next == '\r') at++
    }

    private fun value(depth: Int): Json {
        if (depth > DEEPEST) throw wrong("brackets nested too deep")
        space()
        return when {
            next == '{' -> obj(depth)
            next == '[' -> list(depth)
            next == '"' -> Json.Text(string())
            skip("true") -> Json.Bool(true)
            skip("false") -> Json.Bool(false)
            skip("null") -> Json.Null
            else -> number()
        }
    }

    private fun skip(word: String): Boolean {
        val found = text.startsWith(word, at)
        if (found) at += word.length
        return found
    }

    private fun digits(): Int {
        val start = at
        while (next in '0'..'9') at++
        return at - start
    }

    private operator fun CharRange.contains(letter: Char?): Boolean = letter != null && letter >= first && letter <= last

    private fun number(): Json.Number {
        val start = at
        if (next == '-') at++
        val zero = next == '0'
        val whole = digits()
        if (whole == 0) throw wrong("invalid character")
        if (zero && whole > 1) throw wrong("invalid number")
        if (next == '.') {
            at++
            if (digits() == 0) throw wrong("invalid number")
        }
        if (next == 'e' || next == 'E') {
            at++
            if (next == '+' || next == '-') at++
            if (digits() == 0) throw wrong("invalid number")
        }
        val number = Json.Number(text.substring(start, at))
        if (!number.value.isFinite()) throw wrong("number out of range")
        return number
    }

    private fun string(): String {
        at++
        val found = StringBuilder()
        while (true) {
            val letter = next
            if (letter == null || letter < ' ') throw wrong("invalid character in a text")
            at++
            when (letter) {
                '"' -> return found.toString()
                '\\' -> escape(found)
                else -> found.append(letter)
            }
        }
    }

    private fun escape(found: StringBuilder) {
        val letter = next ?: throw wrong("invalid escape")
        at++
        when (letter) {
            '"', '\\', '/' -> found.append(letter)
            'b' -> found.append('\b')
            'f' -> found.append('\u000C')
            'n' -> found.append('\n')
            'r' -> found.append('\r')
            't' -> found.append('\t')
            'u' -> {
                val unit = unit()
                found.append(unit)
                if (unit.isLowSurrogate()) throw wrong("half a character")
                if (unit.isHighSurrogate()) {
                    val low = if (skip("\\u")) unit() else throw wrong("half a character")
                    if (!low.isLowSurrogate()) throw wrong("half a character")
                    found.append(low)
                }
            }
            else -> throw wrong("invalid escape")
        }
    }

    private fun unit(): Char {
        val digits = text.substring(at, minOf(at + 4, text.length))
        if (digits.length < 4 || !digits.all { it in "0123456789abcdefABCDEF" }) throw wrong("invalid escape")
        at += 4
        return digits.toInt(16).toChar()
    }

    private fun list(depth: Int): Json {
        val items = ArrayList<Json>()
        at++
        space()
        if (next == ']') {
            at++
            return Json.List(items)
        }
        do items.add(value(depth + 1)) while (more(']'))
        return Json.List(items)
    }

    private fun obj(depth: Int): Json {
        val entries = LinkedHashMap<String, Json>()
        at++
        space()
        if (next == '}') {
            at++
            return Json.Object(entries)
        }
        do {
            space()
            if (next != '"') throw wrong("a key must be a text")
            val key = string()
            space()
            if (next != ':') throw wrong("a colon is missing")
            at++
            entries[key] = value(depth + 1)
        } while (more('}'))
        return Json.Object(entries)
    }

    /** Step over a comma; false at the closing bracket. */
    private fun more(closing: Char): Boolean {
        space()
        val letter = next
        if (letter != closing && letter != ',') throw wrong("a comma or bracket is missing")
        at++
        return letter != closing
    }

    private companion object {
        /** Brackets nested deeper than this are refused. */
        const val DEEPEST = 500
    }
}
