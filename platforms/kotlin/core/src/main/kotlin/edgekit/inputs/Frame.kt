package edgekit

/** How stored pixels have to be turned to be upright, as EXIF counts. */
enum class Orientation(val exif: Int) {
    UP(1), UP_MIRRORED(2), DOWN(3), DOWN_MIRRORED(4), LEFT_MIRRORED(5), RIGHT(6), RIGHT_MIRRORED(7), LEFT(8);

    companion object {
        /** Of what `ImageInfo.getRotationDegrees` gives: how far the picture has to be turned clockwise. */
        fun ofDegrees(degrees: Int): Orientation = when (degrees) {
            0 -> UP
            90 -> RIGHT
            180 -> DOWN
            270 -> LEFT
            else -> throw EdgeKitException.Usage("degrees must be 0, 90, 180 or 270, not $degrees")
        }
    }
}

/**
 * Pixels in memory, how they have to be turned, and when they were seen. The pixels are not copied.
 *
 * Throws [EdgeKitException.Input]: no pixels, or too few bytes for them.
 */
class Frame(
    val pixels: ByteArray,
    /** Of the stored pixels. */
    val width: Int,
    val height: Int,
    val format: Format = Format.RGBA,
    val bytesPerRow: Int = width * format.channels,
    val orientation: Orientation = Orientation.UP,
    /** Look at the mirror image of the upright frame: results are in its pixels. For previews that show a mirrored camera. */
    val mirrored: Boolean = false,
    /** Seconds on any clock that runs forward; trackers need it. */
    val time: Double? = null,
) {
    /** The order of bytes in a pixel. [RGBA] is what CameraX and `Bitmap.Config.ARGB_8888` give. */
    enum class Format(internal val channels: Int) { RGB(3), RGBA(4), BGRA(4) }

    init {
        if (width !in 1..LARGEST || height !in 1..LARGEST) {
            throw EdgeKitException.Input("an image must have at least one pixel, not ${width}x$height; is the camera open, the file loaded?")
        }
        val row = width.toLong() * format.channels
        if (bytesPerRow < row || pixels.size < bytesPerRow.toLong() * (height - 1) + row) {
            val wanted = "an image of ${width}x$height in $format must have ${row * height} bytes"
            throw EdgeKitException.Input("$wanted, not ${pixels.size} in rows of $bytesPerRow")
        }
    }

    /** The upright picture; the pixels themselves where they are upright. */
    internal fun upright(): Pixels {
        val isBgra = format == Format.BGRA
        val stored = Pixels(pixels, width, height, bytesPerRow, format.channels, if (isBgra) 2 else 0, if (isBgra) 0 else 2)
        if (orientation == Orientation.UP && !mirrored) return stored
        val isTurned = orientation.exif > 4
        val size = if (isTurned) Size(height, width) else Size(width, height)
        // Where the first upright pixel is stored, and the steps to its right and lower neighbours.
        val (step, row) = stored.step to stored.stride
        val (lastX, lastY) = (width - 1) * step to (height - 1) * row
        var (first, right, down) = when (orientation) {
            Orientation.UP -> Triple(0, step, row)
            Orientation.UP_MIRRORED -> Triple(lastX, -step, row)
            Orientation.DOWN -> Triple(lastX + lastY, -step, -row)
            Orientation.DOWN_MIRRORED -> Triple(lastY, step, -row)
            Orientation.LEFT_MIRRORED -> Triple(0, row, step)
            Orientation.RIGHT -> Triple(lastY, -row, step)
            Orientation.RIGHT_MIRRORED -> Triple(lastX + lastY, -row, -step)
            Orientation.LEFT -> Triple(lastX, row, -step)
        }
        if (mirrored) {
            first += (size.width - 1) * right
            right = -right
        }
        return stored.moved(size, first, right, down)
    }

    private companion object {
        const val LARGEST = 1 shl 20
    }
}

/** Pixels of one upright image: [red] and [blue] are places in a pixel, green is between them. */
internal class Pixels(
    val data: ByteArray,
    val width: Int,
    val height: Int,
    /** Bytes from row to row, and from pixel to pixel. */
    val stride: Int = 3 * width,
    val step: Int = 3,
    val red: Int = 0,
    val blue: Int = 2,
) {
    fun moved(size: Size, first: Int, right: Int, down: Int): Pixels {
        val target = ByteArray(3 * size.width * size.height)
        var to = 0
        for (y in 0 until size.height) {
            var from = first + y * down
            for (x in 0 until size.width) {
                target[to] = data[from + red]
                target[to + 1] = data[from + 1]
                target[to + 2] = data[from + blue]
                from += right
                to += 3
            }
        }
        return Pixels(target, size.width, size.height)
    }
}
