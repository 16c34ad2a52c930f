package edgekit

import kotlin.math.abs

/** A bitmap of its own window: one byte a pixel, 1 where the object is, its first pixel at ([left], [top]) of the frame. */
class Mask(val left: Int, val top: Int, val width: Int, val height: Int, val data: ByteArray) {
    /** Pixels of the object. */
    val area: Int get() = data.count { it != 0.toByte() }

    /** The mask in the size of the frame, row after row, one byte a pixel. */
    fun bitmap(size: Size): ByteArray {
        val whole = ByteArray(size.width * size.height)
        for (y in 0 until height) data.copyInto(whole, (top + y) * size.width + left, y * width, (y + 1) * width)
        return whole
    }

    /** The mask in COCO's encoding, in the size of the frame. */
    fun rle(size: Size): Rle = Rle(size, Rle.compressed(counts(size)))

    /** Lengths of runs, column by column, the first one of background. */
    private fun counts(size: Size): List<Int> {
        val counts = ArrayList<Int>()
        var (inside, began) = false to 0
        fun turn(at: Int) {
            counts.add(at - began)
            began = at
            inside = !inside
        }
        for (x in 0 until width) {
            val column = (left + x) * size.height + top
            if (inside && (height < size.height || data[x].toInt() == 0)) turn(column - size.height + height)
            for (y in 0 until height) if ((data[y * width + x].toInt() != 0) != inside) turn(column + y)
        }
        if (inside) {
            val end = (left + width - 1) * size.height + top + height
            if (end < size.width * size.height) turn(end)
        }
        counts.add(size.width * size.height - began)
        return counts
    }
}

/**
 * COCO's compressed run lengths of one mask.
 *
 * The mask is read column by column, and the lengths of its runs are listed, the first one of background. Every length
 * from the fourth on is replaced by its difference to the length two places before; then each number is written in groups
 * of 5 bits, lowest first, bit 5 set when another group follows, as characters from "0" on.
 */
data class Rle(val size: Size, val counts: String) {
    /** The mask, in the smallest window that holds it. Throws [EdgeKitException.Input]: not COCO's runs, or of another size. */
    fun mask(): Mask {
        val runs = expanded(counts)
        if (size.width !in 0..LARGEST || size.height !in 0..LARGEST) {
            throw EdgeKitException.Input("an image of ${size.width}x${size.height} is none")
        }
        if (runs.any { it < 0 } || runs.sum() != size.width.toLong() * size.height) {
            throw EdgeKitException.Input("its runs cover another number of pixels than the image's ${size.width}x${size.height}")
        }
        var (left, top) = size.width to size.height
        var (right, bottom) = 0 to 0
        eachRun(runs) { x, from, to ->
            left = minOf(left, x)
            right = maxOf(right, x + 1)
            top = minOf(top, from)
            bottom = maxOf(bottom, to)
        }
        if (right == 0) return Mask(0, 0, 0, 0, ByteArray(0))
        val width = right - left
        if (width.toLong() * (bottom - top) > MOST) throw EdgeKitException.Input("a mask of ${width}x${bottom - top} pixels is too large")
        val data = ByteArray(width * (bottom - top))
        eachRun(runs) { x, from, to -> for (y in from until to) data[(y - top) * width + x - left] = 1 }
        return Mask(left, top, width, bottom - top, data)
    }

    /** Each run of the object, cut at the ends of columns: column, first row, and the row after the last. */
    private inline fun eachRun(runs: List<Long>, seen: (Int, Int, Int) -> Unit) {
        var at = 0L
        runs.forEachIndexed { place, count ->
            val end = at + count
            while (place % 2 == 1 && at < end) {
                val x = at / size.height
                val last = minOf(end, (x + 1) * size.height)
                seen(x.toInt(), (at - x * size.height).toInt(), (last - x * size.height).toInt())
                at = last
            }
            at = end
        }
    }

    internal companion object {
        /** Most groups of 5 bits that a number may have. */
        private const val GROUPS = 7
        private const val LARGEST = 1 shl 20
        private const val MOST = 1 shl 30

        fun compressed(counts: List<Int>): String {
            val text = StringBuilder()
            counts.forEachIndexed { i, count ->
                var rest = if (i > 2) count - counts[i - 2] else count
                do {
                    val group = rest and 31
                    rest = rest shr 5
                    val more = if (group and 16 != 0) rest != -1 else rest != 0
                    text.append((group + (if (more) 32 else 0) + 48).toChar())
                } while (more)
            }
            return text.toString()
        }

        private fun expanded(text: String): List<Long> {
            fun refused() = EdgeKitException.Input("its counts '${text.take(20)}' are not COCO's compressed runs, or cut short")
            if (text.isEmpty()) throw refused()
            val counts = ArrayList<Long>()
            var at = 0
            while (at < text.length) {
                var (value, read) = 0L to 0
                do {
                    val letter = text.getOrNull(at)?.code ?: throw refused()
                    if (letter !in 48..111) throw refused()
                    if (read == GROUPS) throw EdgeKitException.Input("its counts '${text.take(20)}' have a number that is too long")
                    val bits = letter - 48
                    value += (bits and 31).toLong() shl (5 * read)
                    read++
                    at++
                    val more = bits and 32 != 0
                    if (!more && bits and 16 != 0) value -= 1L shl (5 * read)
                } while (more)
                val length = if (counts.size > 2) value + counts[counts.size - 2] else value
                if (abs(length) > 1L shl 40) throw refused()
                counts.add(length)
            }
            return counts
        }
    }
}
