package edgekit

import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt

/** Turns frames into input tensors by one rule. Each writes over the one before. One thread at a time. */
internal class Preprocessor(val rule: ImageRule) {
    private val planes = Planes(rule)
    private val tensor = Tensor(planes.data, listOf(1, 3, rule.height, rule.width))
    private var covered: Size? = null

    /** The levels around an image, as RGB. */
    private val padding = if (rule.color == ImageRule.Color.RGB) rule.pad else rule.pad.reversed()

    /** Tensor (1, 3, height, width) and the transform. */
    fun run(upright: Pixels): Pair<Tensor, Transform> {
        val mapping = Transform.of(rule, upright.width, upright.height)
        val size = mapping.resized
        var image = upright
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
        resizeLinear(image, size, window, planes, max(0, y) * rule.width + max(0, x))
        return tensor to mapping
    }

    private fun pad(mapping: Transform) {
        if (covered == mapping.resized) return
        planes.fill(rule.pad)
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
        val size = Size(rule.width, rule.height)
        resizeLinear(Pixels(canvas, size.width, size.height), size, Window(0, 0, size.width, size.height), planes, 0)
        covered = null
        return tensor
    }

    private companion object {
        /** A crop that would scale the whole frame to more than this many times the input is sampled bilinearly, as in Python. */
        const val STRIP = 8
    }
}

/** An input tensor (3, height, width) that is written as grey levels: each becomes its normalised value in its plane. */
internal class Planes(private val rule: ImageRule) {
    val width = rule.width
    private val cells = rule.width * rule.height
    val data = FloatArray(3 * cells)
    private val values = List(3) { plane ->
        FloatArray(256) { level -> ((level * rule.scale - rule.mean[plane]) / rule.std[plane]).toFloat() }
    }

    /** One level for each plane, everywhere. */
    fun fill(levels: List<Int>) {
        for (plane in 0 until 3) data.fill(values[plane][levels[plane]], plane * cells, (plane + 1) * cells)
    }

    /** [count] pixels from byte [from] on, into the cells from [start] on. */
    fun copy(image: Pixels, from: Int, count: Int, start: Int) {
        val (one, two, three) = places(image)
        val (first, second, third) = values
        var at = from
        for (i in start until start + count) {
            data[i] = first[level(image.data, at + one)]
            data[cells + i] = second[level(image.data, at + two)]
            data[2 * cells + i] = third[level(image.data, at + three)]
            at += image.step
        }
    }

    /**
     * A row between two of an image, which begin at the bytes [upper] and [lower]: each pixel is between the bytes [left] and
     * [right] of them. All in one loop and without memory between: faster than rows that are kept.
     */
    fun blend(image: Pixels, upper: Int, lower: Int, left: IntArray, right: IntArray, weights: IntArray, share: Int, start: Int) {
        val (one, two, three) = places(image)
        val (first, second, third) = values
        val bytes = image.data
        for (i in left.indices) {
            val weight = weights[i]
            val a = upper + left[i]
            val b = upper + right[i]
            val c = lower + left[i]
            val d = lower + right[i]
            data[start + i] = first[level(bytes, a + one, b + one, c + one, d + one, weight, share)]
            data[cells + start + i] = second[level(bytes, a + two, b + two, c + two, d + two, weight, share)]
            data[2 * cells + start + i] = third[level(bytes, a + three, b + three, c + three, d + three, weight, share)]
        }
    }

    /** Where in a pixel of an image the level of each plane is. */
    private fun places(image: Pixels): IntArray =
        if (rule.color == ImageRule.Color.RGB) intArrayOf(image.red, 1, image.blue) else intArrayOf(image.blue, 1, image.red)
}
