package edgekit

/** A value that is not what it must be; [path] is where. */
internal class Invalid(what: String, path: String) : Exception(if (path.isEmpty()) what else "$what - at `\$$path`")

/** Reads a value of one type from JSON, with the path that a message names; throws [Invalid]. */
internal typealias Reader<T> = (Json, String) -> T

/** The fields of one JSON object, read one by one. What is not asked for is refused by [finish]. */
internal class Fields(node: Json, val path: String) {
    private val entries = (node as? Json.Object ?: throw expected("object", node, path)).entries
    val names = ArrayList<String>()

    /** A field that must be there. */
    fun <T> read(name: String, reader: Reader<T>): T {
        names.add(name)
        val node = entries[name] ?: throw Invalid("Object missing required field `$name`", path)
        return reader(node, "$path.$name")
    }

    /** A field that may be left out. */
    fun <T> read(name: String, reader: Reader<T>, or: T): T {
        names.add(name)
        val node = entries[name] ?: return or
        return reader(node, "$path.$name")
    }

    /** A field that may be left out, and then is null. */
    fun <T> maybe(name: String, reader: Reader<T>): T? {
        names.add(name)
        return entries[name]?.let { reader(it, "$path.$name") }
    }

    fun finish() {
        for (key in entries.keys) if (key !in names) throw Invalid("Object contains unknown field `$key`", path)
    }
}

/** Readers of plain values. */
internal object Read {
    val string: Reader<String> = { node, path -> (node as? Json.Text ?: throw expected("str", node, path)).value }

    val bool: Reader<Boolean> = { node, path -> (node as? Json.Bool ?: throw expected("bool", node, path)).value }

    val float: Reader<Double> = { node, path -> (node as? Json.Number ?: throw expected("float", node, path)).value }

    val long: Reader<Long> = { node, path ->
        if (node !is Json.Number || !node.isWhole) throw expected("int", node, path)
        node.text.toLongOrNull() ?: throw Invalid("Integer value out of range", path)
    }

    val positive: Reader<Double> = { node, path ->
        float(node, path).also { if (it <= 0) throw Invalid("Expected `float` > 0", path) }
    }

    val obj: Reader<Json.Object> = { node, path -> node as? Json.Object ?: throw expected("object", node, path) }

    fun int(least: Int = Int.MIN_VALUE, most: Int = Int.MAX_VALUE): Reader<Int> = { node, path ->
        val value = long(node, path)
        if (value < least) throw Invalid("Expected `int` >= $least", path)
        if (value > most) throw Invalid("Expected `int` <= $most", path)
        value.toInt()
    }

    /** A whole number of things. */
    val count: Reader<Int> = int(1, 1 shl 16)

    fun <T> list(reader: Reader<T>, most: Int = Int.MAX_VALUE): Reader<List<T>> = { node, path ->
        val items = (node as? Json.List ?: throw expected("array", node, path)).items
        if (items.size > most) throw Invalid("Expected `array` of length <= $most", path)
        items.mapIndexed { place, item -> reader(item, "$path[$place]") }
    }

    fun <T> listOf(count: Int, reader: Reader<T>): Reader<List<T>> = { node, path ->
        list(reader)(node, path).also { if (it.size != count) throw Invalid("Expected `array` of length $count", path) }
    }

    fun <T> dict(reader: Reader<T>): Reader<Map<String, T>> = { node, path ->
        obj(node, path).entries.mapValues { (_, value) -> reader(value, "$path[...]") }
    }

    fun <T> nullable(reader: Reader<T>): Reader<T?> = { node, path -> if (node is Json.Null) null else reader(node, path) }

    fun word(vararg valid: String): Reader<String> = { node, path ->
        val given = string(node, path)
        if (given !in valid) throw Invalid("Invalid enum value '$given'; valid: ${valid.joinToString(", ")}", path)
        given
    }

    /** One of the constants of an enumeration, by its name in small letters. */
    inline fun <reified E : Enum<E>> word(): Reader<E> = { node, path ->
        val given = string(node, path)
        enumValues<E>().firstOrNull { it.name.lowercase() == given }
            ?: throw Invalid("Invalid enum value '$given'; valid: ${enumValues<E>().joinToString(", ") { it.name.lowercase() }}", path)
    }

    /** A structure: all that [body] does not ask for is refused. */
    fun <T> structure(body: (Fields) -> T): Reader<T> = { node, path ->
        val fields = Fields(node, path)
        body(fields).also { fields.finish() }
    }
}

private fun expected(what: String, node: Json, path: String): Invalid {
    val given = when (node) {
        is Json.Null -> "null"
        is Json.Bool -> "bool"
        is Json.Text -> "str"
        is Json.Number -> if (node.isWhole) "int" else "float"
        is Json.List -> "array"
        is Json.Object -> "object"
    }
    return Invalid("Expected `$what`, got `$given`", path)
}
