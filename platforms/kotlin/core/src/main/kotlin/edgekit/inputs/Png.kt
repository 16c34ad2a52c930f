package edgekit

import java.io.ByteArrayOutputStream
import java.util.zip.DataFormatException
import java.util.zip.Inflater
import kotlin.math.abs

/** PNG files of 8 bits a channel, without interlacing: the pictures of golden frames, read the same on any system. */
internal object Png {
    private val signature = byteArrayOf(0x89.toByte(), 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A)

    /** Channels by colour type; 0 where a palette names the colours. */
    private val kinds = mapOf(0 to 1, 2 to 3, 3 to 0, 4 to 2, 6 to 4)

    private class Picture(val width: Int, val height: Int, val channels: Int) {
        val step: Int get() = maxOf(channels, 1)
    }

    /** Throws [EdgeKitException.Input]: damaged, or of another kind. */
    fun read(bytes: ByteArray, name: String): Pixels {
        fun refused(what: String) = EdgeKitException.Input("$name: $what; an RGB PNG of 8 bits a channel is needed")
        fun number(at: Int): Int = (0 until 4).fold(0) { sum, i -> (sum shl 8) or level(bytes, at + i) }
        if (bytes.size < 8 || !bytes.copyOf(8).contentEquals(signature)) throw refused("not a PNG file")
        val packed = ByteArrayOutputStream()
        var palette = ByteArray(0)
        var picture: Picture? = null
        var at = 8
        while (at + 12 <= bytes.size) {
            val length = number(at)
            val start = at + 8
            if (length < 0 || length > bytes.size - start - 4) throw refused("cut short")
            when (String(bytes, at + 4, 4, Charsets.ISO_8859_1)) {
                "IHDR" -> if (length == 13) {
                    val channels = kinds[level(bytes, start + 9)]
                    val (width, height) = number(start) to number(start + 4)
                    val fits = width >= 1 && height >= 1 && width.toLong() * height <= ImageRule.MOST_PIXELS
                    if (bytes[start + 8].toInt() != 8 || bytes[start + 12].toInt() != 0 || channels == null || !fits) {
                        throw refused("of a kind that is not read")
                    }
                    picture = Picture(width, height, channels)
                }
                "PLTE" -> palette = bytes.copyOfRange(start, start + length)
                "IDAT" -> packed.write(bytes, start, length)
                "IEND" -> break
            }
            at = start + length + 4
        }
        val found = picture ?: throw refused("cut short")
        val raw = unpacked(packed.toByteArray(), found.height.toLong() * (1 + found.width * found.step)) ?: throw refused("damaged")
        val flat = unfiltered(raw, found) ?: throw refused("damaged")
        return Pixels(rgb(flat, found, palette) ?: throw refused("a colour is not in its palette"), found.width, found.height)
    }

    /** Exactly [count] bytes, or null. */
    private fun unpacked(packed: ByteArray, count: Long): ByteArray? {
        // DEFLATE makes at most about 1032 bytes of one.
        if (count > 1100L * packed.size || count > Int.MAX_VALUE - 8) return null
        val inflater = Inflater()
        try {
            inflater.setInput(packed)
            val raw = ByteArray(count.toInt())
            var at = 0
            while (at < raw.size) {
                val more = inflater.inflate(raw, at, raw.size - at)
                if (more == 0) return null
                at += more
            }
            return raw
        } catch (problem: DataFormatException) {
            return null
        } finally {
            inflater.end()
        }
    }

    private fun rgb(flat: ByteArray, picture: Picture, palette: ByteArray): ByteArray? {
        if (picture.channels == 3) return flat
        val step = picture.step
        val found = ByteArray(3 * picture.width * picture.height)
        for (i in 0 until picture.width * picture.height) {
            for (k in 0 until 3) {
                found[3 * i + k] = when (picture.channels) {
                    0 -> palette.getOrNull(3 * level(flat, i) + k) ?: return null
                    4 -> flat[step * i + k]
                    else -> flat[step * i]
                }
            }
        }
        return found
    }

    private fun unfiltered(raw: ByteArray, picture: Picture): ByteArray? {
        val (row, step) = picture.width * picture.step to picture.step
        val flat = ByteArray(picture.height * row)
        for (y in 0 until picture.height) {
            val filter = raw[y * (row + 1)].toInt()
            if (filter !in 0..4) return null
            for (x in 0 until row) {
                val to = y * row + x
                val left = if (x >= step) level(flat, to - step) else 0
                val up = if (y > 0) level(flat, to - row) else 0
                val corner = if (x >= step && y > 0) level(flat, to - row - step) else 0
                val guess = when (filter) {
                    1 -> left
                    2 -> up
                    3 -> (left + up) / 2
                    4 -> paeth(left, up, corner)
                    else -> 0
                }
                flat[to] = (raw[y * (row + 1) + 1 + x] + guess).toByte()
            }
        }
        return flat
    }

    private fun paeth(left: Int, up: Int, corner: Int): Int {
        val guess = left + up - corner
        val a = abs(guess - left)
        val b = abs(guess - up)
        val c = abs(guess - corner)
        return if (a <= b && a <= c) left else if (b <= c) up else corner
    }
}
