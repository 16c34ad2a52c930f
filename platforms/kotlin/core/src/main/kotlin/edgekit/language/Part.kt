package edgekit

/** One object of a `tokenizer.json`. Whatever it lacks is an [EdgeKitException.Bundle] that names it. */
internal class Part(value: Json?, val place: String) {
    private val fields = (value as? Json.Object)?.entries
        ?: throw invalidTokenizer("has no object where its $place should be; convert the model again")

    fun wrong(what: String) = invalidTokenizer("its $place $what; convert the model again")

    fun unknown(what: String) =
        invalidTokenizer("its $place $what, which this library does not know; convert a model with an OPT, T5 or BERT tokenizer")

    /** A value; null where it is missing or null. */
    fun json(name: String): Json? = fields[name].takeIf { it !is Json.Null }

    fun has(name: String): Boolean = json(name) != null

    fun text(name: String): String = (json(name) as? Json.Text ?: throw wrong("has no text '$name'")).value

    fun flag(name: String, or: Boolean = false): Boolean {
        val found = json(name) ?: return or
        return (found as? Json.Bool ?: throw wrong("has a '$name' that is neither true nor false")).value
    }

    fun count(value: Json?): Int {
        val number = (value as? Json.Number)?.value
        if (number == null || number != number.toInt().toDouble()) throw wrong("has no number where an id should be")
        return number.toInt()
    }

    fun number(name: String): Int = count(json(name))

    fun array(name: String): List<Json> = (json(name) as? Json.List ?: throw wrong("has no list '$name'")).items

    fun obj(name: String) = Part(json(name), "$place.$name")

    fun list(name: String): List<Part> = array(name).map { Part(it, place) }

    fun entries(name: String): Map<String, Json> = (json(name) as? Json.Object ?: throw wrong("has no object '$name'")).entries
}

internal fun invalidTokenizer(what: String, cause: Throwable? = null) =
    EdgeKitException.Bundle(BundleProblem.INVALID, "tokenizer.json: $what", cause)

/** The code points of a text. */
internal fun letters(text: String): IntArray = text.codePoints().toArray()

/** Some of these code points as a text. */
internal fun IntArray.text(from: Int, to: Int): String = String(this, from, to - from)

/** Each code point by itself. */
internal inline fun eachLetter(text: String, change: (Int) -> String): String = buildString { for (letter in letters(text)) append(change(letter)) }

internal fun text(letter: Int): String = String(Character.toChars(letter))

/** Unicode's White_Space, which Java's has not quite. */
internal fun isSpace(letter: Int): Boolean = when (letter) {
    in 9..13, 0x20, 0x85, 0xA0, 0x1680, in 0x2000..0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 -> true
    else -> false
}

internal fun isNumber(letter: Int): Boolean = when (Character.getType(letter).toByte()) {
    Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER -> true
    else -> false
}

/** Signs of ASCII that are no letters and numbers, and punctuation. */
internal fun isPunctuation(letter: Int): Boolean {
    if (letter < 128) return letter in 33..47 || letter in 58..64 || letter in 91..96 || letter in 123..126
    return when (Character.getType(letter).toByte()) {
        Character.CONNECTOR_PUNCTUATION, Character.DASH_PUNCTUATION, Character.START_PUNCTUATION, Character.END_PUNCTUATION,
        Character.INITIAL_QUOTE_PUNCTUATION, Character.FINAL_QUOTE_PUNCTUATION, Character.OTHER_PUNCTUATION,
        -> true
        else -> false
    }
}

/** What a word is made of. */
internal fun isWord(letter: Int): Boolean {
    if (Character.isAlphabetic(letter) || letter == 0x200C || letter == 0x200D) return true
    return when (Character.getType(letter).toByte()) {
        Character.NON_SPACING_MARK, Character.COMBINING_SPACING_MARK, Character.ENCLOSING_MARK, Character.DECIMAL_DIGIT_NUMBER,
        Character.CONNECTOR_PUNCTUATION,
        -> true
        else -> false
    }
}
