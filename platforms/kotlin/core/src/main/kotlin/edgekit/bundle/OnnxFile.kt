package edgekit

/**
 * Files that an ONNX file has an engine read beside it: weights as external data, and compiled contexts.
 *
 * The file is walked as protobuf, without reading its weights; the numbers of fields are those of onnx.proto. Most files
 * name no other, which one search for a word tells.
 */
internal object OnnxFile {
    /** Not whole as protobuf. */
    class Broken(message: String) : Exception(message)

    private enum class Kind { MODEL, TRAINING, GRAPH, FUNCTION, NODE, ATTRIBUTE, SPARSE, TENSOR }

    /** What leads to tensors: fields of each kind of message, with the kind that they hold. */
    private val inside: Map<Pair<Kind, Int>, Kind> = mapOf(
        (Kind.MODEL to 7) to Kind.GRAPH, (Kind.TRAINING to 1) to Kind.GRAPH, (Kind.TRAINING to 2) to Kind.GRAPH,
        (Kind.ATTRIBUTE to 6) to Kind.GRAPH, (Kind.ATTRIBUTE to 11) to Kind.GRAPH,
        (Kind.MODEL to 20) to Kind.TRAINING, (Kind.MODEL to 25) to Kind.FUNCTION,
        (Kind.GRAPH to 1) to Kind.NODE, (Kind.FUNCTION to 7) to Kind.NODE,
        (Kind.GRAPH to 5) to Kind.TENSOR, (Kind.ATTRIBUTE to 5) to Kind.TENSOR, (Kind.ATTRIBUTE to 10) to Kind.TENSOR,
        (Kind.SPARSE to 1) to Kind.TENSOR, (Kind.SPARSE to 2) to Kind.TENSOR,
        (Kind.GRAPH to 15) to Kind.SPARSE, (Kind.ATTRIBUTE to 22) to Kind.SPARSE, (Kind.ATTRIBUTE to 23) to Kind.SPARSE,
        (Kind.FUNCTION to 11) to Kind.ATTRIBUTE, (Kind.NODE to 5) to Kind.ATTRIBUTE,
    )

    /** Messages inside one another. */
    private const val DEEPEST = 100

    /** Words without which no file names another. */
    private val words = listOf("location", "ep_cache_context").map { it.toByteArray() }

    private class Field(val number: Int, val wire: Int, val start: Int, val end: Int)

    /** What the tensors and contexts of an ONNX file name as their place. Throws [Broken]. */
    fun named(data: ByteArray): Set<String> {
        val found = HashSet<String>()
        if (words.any { contains(data, it) }) walk(data, fields(data, 0, data.size), Kind.MODEL, 0, found)
        return found
    }

    private fun contains(data: ByteArray, word: ByteArray): Boolean =
        (0..data.size - word.size).any { at -> data[at] == word[0] && word.indices.all { data[at + it] == word[it] } }

    private fun walk(data: ByteArray, fields: List<Field>, kind: Kind, depth: Int, found: MutableSet<String>) {
        if (depth > DEEPEST) throw Broken("more than $DEEPEST messages inside one another")
        if (kind == Kind.TENSOR) {
            // Entries of external data are keys (field 1) and values (2).
            for (one in fields) {
                if (one.number != 13 || one.wire != 2) continue
                val parts = texts(data, one)
                if (parts[1] == "location") found.add(parts[2] ?: "")
            }
            return
        }
        if (kind == Kind.NODE) context(data, fields, found)
        for (one in fields) {
            val inner = if (one.wire == 2) inside[kind to one.number] else null
            if (inner != null) walk(data, fields(data, one.start, one.end), inner, depth + 1, found)
        }
    }

    /** The file of an `EPContext` whose context is not embedded; `embed_mode` is 1 where it is, and by default. */
    private fun context(data: ByteArray, fields: List<Field>, found: MutableSet<String>) {
        val all = fields.filter { it.wire == 2 }
        if (all.none { it.number == 4 && text(data, it) == "EPContext" }) return
        val contexts = ArrayList<String>()
        var embedded = true
        for (one in all) {
            if (one.number != 5) continue
            val parts = texts(data, one)
            if (parts[1] == "ep_cache_context") contexts.add(parts[4] ?: "")
            if (parts[1] == "embed_mode") {
                val mode = fields(data, one.start, one.end).lastOrNull { it.number == 3 && it.wire == 0 }
                if (mode == null || Cursor(data, mode.start, mode.end).varint() != 1L) embedded = false
            }
        }
        if (!embedded) found.addAll(contexts.filter { it.isNotEmpty() })
    }

    private fun text(data: ByteArray, field: Field) = String(data, field.start, field.end - field.start, Charsets.UTF_8)

    /** The texts of a message by their field. */
    private fun texts(data: ByteArray, field: Field): Map<Int, String> =
        fields(data, field.start, field.end).filter { it.wire == 2 }.associate { it.number to text(data, it) }

    /** Number, wire type and place of every field. */
    private fun fields(data: ByteArray, start: Int, end: Int): List<Field> {
        val found = ArrayList<Field>()
        val cursor = Cursor(data, start, end)
        while (cursor.at < end) {
            val tag = cursor.varint()
            val wire = (tag and 7).toInt()
            var from = cursor.at
            val size = when (wire) {
                0 -> {
                    cursor.varint()
                    (cursor.at - from).toLong()
                }
                1 -> 8
                5 -> 4
                2 -> cursor.varint().also { from = cursor.at }
                else -> throw Broken("a field of wire type $wire")
            }
            if (size < 0 || size > end - from) throw Broken("a field that ends behind its message")
            cursor.at = from + size.toInt()
            found.add(Field((tag ushr 3).coerceAtMost(Int.MAX_VALUE.toLong()).toInt(), wire, from, cursor.at))
        }
        return found
    }

    private class Cursor(private val data: ByteArray, var at: Int, private val end: Int) {
        /** An integer of at most 10 bytes. */
        fun varint(): Long {
            var value = 0L
            for (i in 0 until 10) {
                if (at >= end) throw Broken("an integer that ends behind its message")
                val byte = data[at++].toLong()
                value = value or ((byte and 127) shl (7 * i))
                if (byte >= 0) return value
            }
            throw Broken("an integer of more than 10 bytes")
        }
    }
}
