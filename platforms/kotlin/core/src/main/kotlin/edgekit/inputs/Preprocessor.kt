package edgekit

import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt

/** Turns frames into input tensors by one rule, reusing its canvas from frame to frame. One thread at a time. */
internal class Preprocessor(val rule: ImageRule) {
    private val canvas = ByteArray(3 * rule.width * rule.height)

    /** Normalised value of every pixel level, per channel in the model's colour order. */
    private val tables = List(3) { channel ->
        FloatArray(256) { level -> ((level * rule.scale - rule.mean[channel]) / rule.std[channel]).toFloat() }
    }
    private var covered: Size? = null

    /** The levels around an image, as RGB. */
    private val padding = if (rule.color == ImageRule.Color.RGB) rule.pad else rule.pad.reversed()

    /** Tensor (1, 3, height, width) and the transform. */
    fun run(image: Pixels): Pair<Tensor, Transform> {
        val mapping = resize(image)
        return normalise(canvas) to mapping
    }

    private fun resize(given: Pixels): Transform {
        val mapping = Transform.of(rule, given.width, given.height)
        val size = mapping.resized
        var image = given
        val isLinear = rule.interpolation == ImageRule.Interpolation.LINEAR
        if (!isLinear && size.width.toLong() * size.height <= STRIP.toLong() * rule.width * rule.height) {
            // What follows finds it in its size already.
            image = resample(image, size, rule.interpolation == ImageRule.Interpolation.BICUBIC)
        }
        if (rule.resize == ImageRule.Resize.LETTERBOX) pad(mapping)
        // The part of the scaled image that lies on the input.
        val (x, y) = mapping.offsetX.toInt() to mapping.offsetY.toInt()
        val (left, top) = max(0, -x) to max(0, -y)
        val window = Window(left, top, min(size.width - left, rule.width), min(size.height - top, rule.height))
        val start = 3 * (max(0, y) * rule.width + max(0, x))
        resizeLinear(image, size, window, canvas, start, 3 * rule.width)
        return mapping
    }

    private fun pad(mapping: Transform) {
        if (covered == mapping.resized) return
        for (i in canvas.indices) canvas[i] = padding[i % 3].toByte()
        covered = mapping.resized
    }

    /** The tensor of a part of an image, sampled bilinearly; padded where it is outside of the image. As `cv2.warpAffine`. */
    fun part(image: Pixels, mapping: Transform): Tensor {
        val places = intArrayOf(image.red, 1, image.blue)
        fun level(x: Int, y: Int, channel: Int): Double =
            if (x < 0 || x >= image.width || y < 0 || y >= image.height) padding[channel].toDouble()
            else level(image.data, y * image.stride + x * image.step + places[channel]).toDouble()
        val part = ByteArray(3 * rule.width * rule.height)
        var to = 0
        for (j in 0 until rule.height) {
            val y = (j + 0.5 - mapping.offsetY) / mapping.scaleY - 0.5
            val top = floor(y).toInt()
            val down = y - top
            for (i in 0 until rule.width) {
                val x = (i + 0.5 - mapping.offsetX) / mapping.scaleX - 0.5
                val left = floor(x).toInt()
                val across = x - left
                for (channel in 0 until 3) {
                    val upper = level(left, top, channel) * (1 - across) + level(left + 1, top, channel) * across
                    val lower = level(left, top + 1, channel) * (1 - across) + level(left + 1, top + 1, channel) * across
                    part[to++] = (upper * (1 - down) + lower * down).roundToInt().toByte()
                }
            }
        }
        return normalise(part)
    }

    /** Tensor of RGB pixels that have the input's size already. */
    fun normalise(canvas: ByteArray): Tensor {
        val cells = rule.width * rule.height
        val first = if (rule.color == ImageRule.Color.RGB) 0 else 2
        val third = 2 - first
        val (one, two, three) = tables
        val data = FloatArray(3 * cells)
        var at = 0
        for (i in 0 until cells) {
            data[i] = one[level(canvas, at + first)]
            data[cells + i] = two[level(canvas, at + 1)]
            data[2 * cells + i] = three[level(canvas, at + third)]
            at += 3
        }
        return Tensor(data, listOf(1, 3, rule.height, rule.width))
    }

    private companion object {
        /** A crop that would scale the whole frame to more than this many times the input is sampled bilinearly, as in Python. */
        const val STRIP = 8
    }
}
