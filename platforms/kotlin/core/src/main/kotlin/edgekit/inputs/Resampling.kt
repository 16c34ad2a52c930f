package edgekit

import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.truncate

/** Pillow's weights are whole multiples of 1 / ONE. */
private const val ONE = (1 shl 22).toDouble()

/**
 * An image in another size as Pillow makes it, which averages over all pixels when an image shrinks: across first and
 * then down, rounded to whole grey levels in between.
 */
internal fun resample(image: Pixels, size: Size, bicubic: Boolean): Pixels {
    val across = Weights(image.width, size.width, bicubic)
    val narrow = ByteArray(3 * size.width * image.height)
    along(image, image.height, image.stride, image.step, across, narrow, 3 * size.width, 3)
    // The same with rows and columns exchanged.
    val down = Weights(image.height, size.height, bicubic)
    val small = ByteArray(3 * size.width * size.height)
    along(Pixels(narrow, size.width, image.height), size.width, 3, 3 * size.width, down, small, 3, 3 * size.width)
    return Pixels(small, size.width, size.height)
}

private fun along(
    source: Pixels, lines: Int, lineStep: Int, step: Int, weights: Weights, target: ByteArray, targetLine: Int, targetStep: Int,
) {
    val data = source.data
    for (line in 0 until lines) {
        for (place in weights.first.indices) {
            var red = 0.0
            var green = 0.0
            var blue = 0.0
            var at = line * lineStep + weights.first[place] * step
            for (weight in weights.of[place]) {
                red += level(data, at + source.red) * weight
                green += level(data, at + 1) * weight
                blue += level(data, at + source.blue) * weight
                at += step
            }
            val to = line * targetLine + place * targetStep
            target[to] = grey(red)
            target[to + 1] = grey(green)
            target[to + 2] = grey(blue)
        }
    }
}

private fun grey(sum: Double): Byte = floor((sum + ONE / 2) / ONE).coerceIn(0.0, 255.0).toInt().toByte()

/**
 * For each new place: the first old one, and the weights from there on.
 *
 * The kernel is a triangle, or Keys' cubic with a = -0.5 (IEEE Trans. ASSP 29, 1981), cut off at the border.
 */
private class Weights(old: Int, fresh: Int, bicubic: Boolean) {
    val first = IntArray(fresh)
    val of: Array<DoubleArray>

    init {
        val reach = if (bicubic) 2.0 else 1.0
        val scale = old.toDouble() / fresh
        val stretch = max(scale, 1.0)
        of = Array(fresh) { i ->
            val centre = (i + 0.5) * scale
            val low = max(floor(centre - reach * stretch + 0.5).toInt(), 0)
            val high = min(floor(centre + reach * stretch + 0.5).toInt(), old)
            first[i] = low
            val some = DoubleArray(high - low) {
                val x = (low + it + 0.5 - centre) / stretch
                if (bicubic) cubic(x) else max(1 - abs(x), 0.0)
            }
            val total = some.sum()
            for (k in some.indices) {
                val share = some[k] / total * ONE
                some[k] = truncate(share + if (share < 0) -0.5 else 0.5)
            }
            some
        }
    }
}

private fun cubic(x: Double): Double {
    val away = abs(x)
    if (away < 1) return (1.5 * away - 2.5) * away * away + 1
    return if (away < 2) ((-0.5 * away + 2.5) * away - 4) * away + 2 else 0.0
}
