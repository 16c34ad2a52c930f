package edgekit

/** 32-bit floats with their shape, in C order. */
class Tensor(val data: FloatArray, val shape: List<Int>) {
    /** How a message shows the shape: `(1, 80, 52, 52)`. */
    internal val shown: String get() = shown(shape)

    /** (1, channels, rows, columns) as (1, rows, columns, channels). */
    fun channelsLast(): Tensor {
        if (shape.size != 4) return this
        val (batch, channels, rows, columns) = shape
        return Tensor(transposed(channels, rows * columns), listOf(batch, rows, columns, channels))
    }

    /** The inverse of [channelsLast]. */
    fun channelsFirst(): Tensor {
        if (shape.size != 4) return this
        val (batch, rows, columns, channels) = shape
        return Tensor(transposed(rows * columns, channels), listOf(batch, channels, rows, columns))
    }

    /** A table (rows, columns) as (columns, rows). */
    private fun transposed(rows: Int, columns: Int): FloatArray {
        val turned = FloatArray(data.size)
        for (row in 0 until rows) for (column in 0 until columns) turned[column * rows + row] = data[row * columns + column]
        return turned
    }

    internal companion object {
        fun shown(shape: List<Int>): String = "(${shape.joinToString(", ")}${if (shape.size == 1) "," else ""})"
    }
}

/** Width and height in pixels. */
data class Size(val width: Int, val height: Int)

/** An upright box in pixels, x to the right and y down. Pixel (row i, column j) covers [j, j + 1) x [i, i + 1). */
data class Box(val x1: Float, val y1: Float, val x2: Float, val y2: Float) {
    val width: Float get() = x2 - x1
    val height: Float get() = y2 - y1

    internal val area: Float get() = maxOf(width, 0f) * maxOf(height, 0f)
    internal val isFinite: Boolean get() = x1.isFinite() && y1.isFinite() && x2.isFinite() && y2.isFinite()

    /** Clipped to a picture. */
    internal fun clipped(size: Size): Box {
        val (width, height) = size.width.toFloat() to size.height.toFloat()
        return Box(x1.coerceIn(0f, width), y1.coerceIn(0f, height), x2.coerceIn(0f, width), y2.coerceIn(0f, height))
    }
}

/** Indices of values from the largest to the smallest; equal ones keep their order. */
internal fun descending(values: FloatArray): IntArray =
    // Adding 0 makes one of the two zeros. Sorting objects is stable.
    values.indices.sortedWith { a, b -> (values[b] + 0f).compareTo(values[a] + 0f) }.toIntArray()

internal fun <T> List<T>.taking(places: IntArray): List<T> = places.map { this[it] }

internal fun FloatArray.taking(places: IntArray): FloatArray = FloatArray(places.size) { this[places[it]] }

internal fun IntArray.taking(places: IntArray): IntArray = IntArray(places.size) { this[places[it]] }

/** The indices below [count] for which something holds. */
internal inline fun indicesWhere(count: Int, holds: (Int) -> Boolean): IntArray {
    val found = IntArray(count)
    var size = 0
    for (i in 0 until count) if (holds(i)) found[size++] = i
    return found.copyOf(size)
}

/** Half to even, as Python rounds. */
internal fun rounded(value: Double): Int = Math.rint(value).toInt()
