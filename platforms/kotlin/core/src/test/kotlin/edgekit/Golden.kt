package edgekit

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs

/** The root of the project. */
val root: File = File(System.getProperty("edgekit.root") ?: "../../..").canonicalFile

/** What a case gives or expects: numbers are flat, however they were nested. */
internal sealed class Value {
    class Numbers(val values: DoubleArray) : Value()

    data class Text(val value: String) : Value()

    data class Flag(val value: Boolean) : Value()

    object None : Value()

    class Many(override val items: List<Value>) : Value()

    class Named(val entries: Map<String, Value>) : Value()

    operator fun get(key: String): Value = (this as? Named)?.entries?.get(key) ?: None

    val numbers: DoubleArray get() = (this as? Numbers)?.values ?: DoubleArray(0)
    open val items: List<Value> get() = emptyList()
    val text: String? get() = (this as? Text)?.value

    companion object {
        fun of(json: Json, folder: File): Value = when (json) {
            is Json.Null -> None
            is Json.Bool -> Flag(json.value)
            is Json.Text -> Text(json.value)
            is Json.Number -> Numbers(doubleArrayOf(json.value))
            is Json.List -> {
                val values = json.items.map { of(it, folder) }
                if (values.all { it is Numbers }) Numbers(values.flatMap { it.numbers.asList() }.toDoubleArray()) else Many(values)
            }
            is Json.Object ->
                if ("dtype" in json.entries && "shape" in json.entries) Numbers(json.array(folder).first)
                else Named(json.entries.mapValues { (_, value) -> of(value, folder) })
        }

        fun of(vararg entries: Pair<String, Value>) = Named(mapOf(*entries))
    }
}

internal fun values(given: Iterable<Number>) = Value.Numbers(given.map { it.toDouble() }.toDoubleArray())

internal fun values(given: FloatArray) = Value.Numbers(DoubleArray(given.size) { given[it].toDouble() })

internal fun values(given: IntArray) = Value.Numbers(DoubleArray(given.size) { given[it].toDouble() })

internal fun values(vararg given: Number) = values(given.asList())

internal fun boxValues(boxes: List<Box>) = values(boxes.flatMap { listOf(it.x1, it.y1, it.x2, it.y2) })

internal fun pointValues(points: List<List<Keypoint>>) = values(points.flatten().flatMap { listOf(it.x, it.y, it.score) })

internal fun error(kind: String): Value = Value.of("error" to Value.Text(kind))

/** One case of the golden set. */
internal class Case(val name: String, val folder: File, document: Json) {
    val mustFail = document["must_fail"].flag
    val given = document["given"]
    val expected = Value.of(document["expected"], folder)
    val tolerance = Value.of(document["tolerance"], folder)

    /** How far entries of a name may be apart. */
    fun tolerance(name: String): Double = tolerance[name].numbers.firstOrNull() ?: 0.0

    companion object {
        /** All cases of a kind, by name. */
        fun stored(kind: String): List<Case> = File(root, "golden/$kind").listFiles().orEmpty().sorted()
            .filter { File(it, "case.json").isFile }.map { Case(it.name, it, Json.parse(File(it, "case.json").readBytes())) }
    }
}

internal operator fun Json.get(key: String): Json = (this as? Json.Object)?.entries?.get(key) ?: Json.Null

internal val Json.flag: Boolean get() = (this as? Json.Bool)?.value ?: false
internal val Json.number: Double? get() = (this as? Json.Number)?.value
internal val Json.string: String? get() = (this as? Json.Text)?.value
internal val Json.items: List<Json> get() = (this as? Json.List)?.items ?: emptyList()
internal val Json.flat: List<Double> get() = number?.let { listOf(it) } ?: items.flatMap { it.flat }
internal val Json.isMissing: Boolean get() = this is Json.Null

/** The array that this describes, in 64 bits, with its shape. Infinities and NaN are only in files. */
internal fun Json.array(folder: File): Pair<DoubleArray, List<Int>> {
    val shape = this["shape"].flat.map { it.toInt() }
    val count = shape.fold(1) { product, side -> product * side }
    val file = this["file"].string
    if (file != null) {
        val bytes = ByteBuffer.wrap(File(folder, file).readBytes()).order(ByteOrder.LITTLE_ENDIAN)
        return when (this["dtype"].string) {
            "uint8" -> DoubleArray(count) { (bytes.get(it).toInt() and 0xFF).toDouble() }
            "int32" -> DoubleArray(count) { bytes.getInt(4 * it).toDouble() }
            else -> DoubleArray(count) { bytes.getFloat(4 * it).toDouble() }
        } to shape
    }
    if (!this["values"].isMissing) return this["values"].flat.toDoubleArray() to shape
    val rule = this["recurrence"]
    val (offset, scale) = rule["offset"].number!! to rule["scale"].number!!
    var x = rule["seed"].number!!.toLong()
    val data = DoubleArray(count) {
        x = (x * 1_664_525 + 1_013_904_223) and 0xFFFFFFFFL
        (offset + scale * (x / 256) / 16_777_216).toFloat().toDouble()
    }
    for (pair in this["set"].items) data[pair.items[0].number!!.toInt()] = pair.items[1].number!!.toFloat().toDouble()
    return data to shape
}

internal fun Json.tensor(folder: File): Tensor {
    val (data, shape) = array(folder)
    return Tensor(FloatArray(data.size) { data[it].toFloat() }, shape)
}

/** In what two values differ: whole numbers and texts exactly, other numbers within the tolerance of their entry. */
internal fun apart(expected: Value, answered: Value, tolerance: Map<String, Double> = emptyMap(), place: String = ""): List<String> = when {
    expected is Value.Numbers && answered is Value.Numbers -> numbersApart(expected.values, answered.values, tolerance, place)
    expected is Value.Many && answered is Value.Many ->
        if (expected.items.size != answered.items.size) listOf("$place: ${answered.items.size} entries, not ${expected.items.size}")
        else expected.items.indices.flatMap { apart(expected.items[it], answered.items[it], tolerance, "$place[$it]") }
    expected is Value.Named && answered is Value.Named ->
        if (expected.entries.keys != answered.entries.keys) listOf("$place: has ${answered.entries.keys}, not ${expected.entries.keys}")
        else expected.entries.keys.sorted().flatMap { apart(expected[it], answered[it], tolerance, if (place.isEmpty()) it else "$place.$it") }
    expected == answered -> emptyList()
    else -> listOf("$place: $answered, not $expected")
}

private fun numbersApart(expected: DoubleArray, answered: DoubleArray, tolerance: Map<String, Double>, place: String): List<String> {
    if (expected.size != answered.size) return listOf("$place: ${answered.size} numbers, not ${expected.size}")
    val allowed = tolerance[place.substringAfterLast('.').replace(Regex("[0-9\\[\\]]+$"), "")] ?: 0.0
    // An answer of NaN is off by any distance.
    val most = expected.indices.maxOfOrNull {
        val (one, other) = expected[it] to answered[it]
        if (one == other) 0.0 else if (other.isNaN()) Double.POSITIVE_INFINITY else abs(one - other)
    } ?: 0.0
    return if (most <= allowed) emptyList() else listOf("$place: off by $most, $allowed is allowed")
}
