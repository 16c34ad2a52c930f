package edgekit

import kotlin.math.floor

/** A part of a scaled image. */
internal class Window(val left: Int, val top: Int, val width: Int, val height: Int)

/** For [count] of the [fresh] places from [from] on: the two old ones (times a step), and the share of the second. */
private class Axis(old: Int, fresh: Int, from: Int, count: Int, step: Int) {
    val first = IntArray(count)
    val second = IntArray(count)
    val share = FloatArray(count)

    init {
        val scale = 1 / (fresh.toDouble() / old)
        for (i in 0 until count) {
            val place = ((from + i + 0.5) * scale - 0.5).toFloat()
            var low = floor(place).toInt()
            var part = place - low
            if (low < 0) {
                low = 0
                part = 0f
            }
            if (low >= old - 1) {
                low = old - 1
                part = 0f
            }
            first[i] = low * step
            second[i] = minOf(low + 1, old - 1) * step
            share[i] = part
        }
    }

    /** Weights of the first and of the second place, in OpenCV's 11 bits. */
    val before = IntArray(count) { fixed(1 - share[it]) }
    val after = IntArray(count) { fixed(share[it]) }

    private fun fixed(part: Float): Int = floor((part * 2048f).toDouble() + 0.5).toInt()
}

/**
 * A window of an image scaled to a size, written as RGB into [target].
 *
 * Equal to `cv2.resize` but for one grey level in a few pixels of a thousand, where its vector code rounds differently.
 */
internal fun resizeLinear(image: Pixels, size: Size, window: Window, target: ByteArray, start: Int, stride: Int) {
    if (size.width == image.width && size.height == image.height) {
        copy(image, window, target, start, stride)
        return
    }
    val x = Axis(image.width, size.width, window.left, window.width, image.step)
    val y = Axis(image.height, size.height, window.top, window.height, image.stride)
    var upper = IntArray(3 * window.width)
    var lower = IntArray(3 * window.width)
    val blended = IntArray(3 * window.width)
    var (upperRow, lowerRow) = -1 to -1
    for (j in 0 until window.height) {
        val (one, two) = y.first[j] to y.second[j]
        if (one == lowerRow) {
            upper = lower.also { lower = upper }
            upperRow = lowerRow.also { lowerRow = upperRow }
        }
        if (one != upperRow) interpolate(image, one, x, upper)
        if (two != lowerRow) interpolate(image, two, x, lower)
        upperRow = one
        lowerRow = two
        blend(upper, lower, y.before[j], y.after[j], blended, target, start + j * stride)
    }
}

/** Two rows of `interpolate`, interpolated down, as grey levels. Two loops, because the JVM has vector code for the first alone. */
private fun blend(upper: IntArray, lower: IntArray, a: Int, b: Int, blended: IntArray, target: ByteArray, to: Int) {
    for (i in blended.indices) blended[i] = ((a * upper[i]) shr 16) + ((b * lower[i]) shr 16) + 2 shr 2
    for (i in blended.indices) target[to + i] = blended[i].toByte()
}

/** A row of the image, interpolated across, in 1/128 of a grey level. */
private fun interpolate(image: Pixels, base: Int, x: Axis, row: IntArray) {
    val data = image.data
    val red = image.red
    val blue = image.blue
    val first = x.first
    val second = x.second
    val before = x.before
    val after = x.after
    var at = 0
    for (i in first.indices) {
        val one = base + first[i]
        val two = base + second[i]
        val a = before[i]
        val b = after[i]
        row[at] = (level(data, one + red) * a + level(data, two + red) * b) shr 4
        row[at + 1] = (level(data, one + 1) * a + level(data, two + 1) * b) shr 4
        row[at + 2] = (level(data, one + blue) * a + level(data, two + blue) * b) shr 4
        at += 3
    }
}

/** A grey level, 0..255. */
internal fun level(data: ByteArray, at: Int): Int = data[at].toInt() and 0xFF

private fun copy(image: Pixels, window: Window, target: ByteArray, start: Int, stride: Int) {
    for (j in 0 until window.height) {
        var from = (window.top + j) * image.stride + window.left * image.step
        var to = start + j * stride
        for (i in 0 until window.width) {
            target[to] = image.data[from + image.red]
            target[to + 1] = image.data[from + 1]
            target[to + 2] = image.data[from + image.blue]
            from += image.step
            to += 3
        }
    }
}

/** A plane of floats; its values begin at [start] of an array. */
internal class Plane(val data: FloatArray, val start: Int, val width: Int, val height: Int) {
    /** A part of the plane (all of it by default) scaled to another size, as `cv2.resize` does with floats. */
    fun resized(width: Int, height: Int, part: Window = Window(0, 0, this.width, this.height)): Plane {
        val x = Axis(part.width, width, 0, width, 1)
        val y = Axis(part.height, height, 0, height, 1)
        val upper = FloatArray(width)
        val lower = FloatArray(width)
        var (upperRow, lowerRow) = -1 to -1
        fun fill(row: FloatArray, source: Int) {
            val base = start + (part.top + source) * this.width + part.left
            for (i in 0 until width) row[i] = data[base + x.first[i]] * (1 - x.share[i]) + data[base + x.second[i]] * x.share[i]
        }
        val result = FloatArray(width * height)
        for (j in 0 until height) {
            if (upperRow != y.first[j]) fill(upper, y.first[j])
            if (lowerRow != y.second[j]) fill(lower, y.second[j])
            upperRow = y.first[j]
            lowerRow = y.second[j]
            val share = y.share[j]
            for (i in 0 until width) result[j * width + i] = upper[i] * (1 - share) + lower[i] * share
        }
        return Plane(result, 0, width, height)
    }
}
