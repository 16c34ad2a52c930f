package edgekit

import kotlin.math.floor

/** A part of a scaled image. */
internal class Window(val left: Int, val top: Int, val width: Int, val height: Int)

/** Where [count] of the [fresh] places from [from] on lie between old ones: the one before, and the share of the one behind. */
private class Axis(old: Int, fresh: Int, from: Int, count: Int) {
    val before = IntArray(count)
    val share = FloatArray(count)

    init {
        val scale = 1 / (fresh.toDouble() / old)
        for (i in 0 until count) {
            val place = ((from + i + 0.5) * scale - 0.5).toFloat()
            before[i] = floor(place).toInt()
            share[i] = place - before[i]
        }
    }

    /** The shares in OpenCV's 11 bits. */
    val fixed get() = IntArray(share.size) { Math.rint(share[it] * 2048.0).toInt() }

    /** Beyond the border take the last place alone. */
    fun cut(old: Int) {
        for (i in before.indices) {
            if (before[i] in 0 until old - 1) continue
            before[i] = before[i].coerceIn(0, old - 1)
            share[i] = 0f
        }
    }
}

/**
 * A window of an image scaled to a size, written into the planes of a tensor from the cell [start] on.
 *
 * Equal to `cv2.resize` on x86, which does not treat its borders alike: beyond the left and right ones it takes the last
 * pixel, beyond the upper and lower ones it interpolates between the last row and itself, and rounds.
 */
internal fun resizeLinear(image: Pixels, size: Size, window: Window, target: Planes, start: Int) {
    if (size.width == image.width && size.height == image.height) {
        for (j in 0 until window.height) {
            target.copy(image, (window.top + j) * image.stride + window.left * image.step, window.width, start + j * target.width)
        }
        return
    }
    val x = Axis(image.width, size.width, window.left, window.width)
    x.cut(image.width)
    val first = IntArray(window.width) { x.before[it] * image.step }
    val second = IntArray(window.width) { minOf(x.before[it] + 1, image.width - 1) * image.step }
    val weights = x.fixed
    val y = Axis(image.height, size.height, window.top, window.height)
    val shares = y.fixed
    fun row(number: Int) = number.coerceIn(0, image.height - 1) * image.stride
    for (j in 0 until window.height) {
        target.blend(image, row(y.before[j]), row(y.before[j] + 1), first, second, weights, shares[j], start + j * target.width)
    }
}

/** A grey level, 0..255. */
internal fun level(data: ByteArray, at: Int): Int = data[at].toInt() and 0xFF

/** The level between four: across first, in 1/128 of a level, and then down. Weights are those of the right and lower ones, of 2048. */
internal fun level(data: ByteArray, a: Int, b: Int, c: Int, d: Int, weight: Int, share: Int): Int {
    val upper = between(level(data, a), level(data, b), weight)
    val lower = between(level(data, c), level(data, d), weight)
    return (((2048 - share) * upper) shr 16) + ((share * lower) shr 16) + 2 shr 2
}

private fun between(one: Int, two: Int, weight: Int): Int = ((one shl 11) + (two - one) * weight) shr 4

/** A plane of floats; its values begin at [start] of an array. */
internal class Plane(val data: FloatArray, val start: Int, val width: Int, val height: Int) {
    /** A part of the plane (all of it by default) scaled to another size, as `cv2.resize` does with floats. */
    fun resized(width: Int, height: Int, part: Window = Window(0, 0, this.width, this.height)): Plane {
        val x = Axis(part.width, width, 0, width).also { it.cut(part.width) }
        val y = Axis(part.height, height, 0, height).also { it.cut(part.height) }
        val second = IntArray(width) { minOf(x.before[it] + 1, part.width - 1) }
        val upper = FloatArray(width)
        val lower = FloatArray(width)
        var (upperRow, lowerRow) = -1 to -1
        fun fill(row: FloatArray, source: Int) {
            val base = start + (part.top + source) * this.width + part.left
            for (i in 0 until width) row[i] = data[base + x.before[i]] * (1 - x.share[i]) + data[base + second[i]] * x.share[i]
        }
        val result = FloatArray(width * height)
        for (j in 0 until height) {
            val (one, two) = y.before[j] to minOf(y.before[j] + 1, part.height - 1)
            if (upperRow != one) fill(upper, one)
            if (lowerRow != two) fill(lower, two)
            upperRow = one
            lowerRow = two
            val share = y.share[j]
            for (i in 0 until width) result[j * width + i] = upper[i] * (1 - share) + lower[i] * share
        }
        return Plane(result, 0, width, height)
    }
}
