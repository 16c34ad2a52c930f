package edgekit

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** The embeddings of all tokens: `embeddings.npy` (vocabulary, width) of 16 or 32-bit floats, of which rows are read. */
internal class Embeddings(private val bytes: ByteBuffer, val width: Int) {
    val count: Int
    private val start: Int
    private val isHalf: Boolean

    init {
        bytes.order(ByteOrder.LITTLE_ENDIAN)
        val wide = if (bytes.limit() > 12 && text(1, 6) == "NUMPY") (if (bytes.get(6).toInt() == 1) 2 else 4) else 0
        start = 8 + wide + if (wide == 2) bytes.getShort(8).toInt() and 0xFFFF else if (wide == 4) bytes.getInt(8) else 0
        val header = if (wide > 0 && start in 8..bytes.limit()) text(8 + wide, start) else ""
        isHalf = "'descr': '<f2'" in header
        val shape = Regex("'shape': \\((\\d+), (\\d+)\\)").find(header)?.groupValues?.drop(1)?.map { it.toLongOrNull() ?: -1 } ?: listOf(-1L, -1L)
        val isRight = (isHalf || "'descr': '<f4'" in header) && "'fortran_order': False" in header && shape[1] == width.toLong() &&
            start + shape[0] * width * (if (isHalf) 2 else 4) == bytes.limit().toLong()
        if (!isRight) {
            val what = "embeddings.npy: is no array (vocabulary, $width) of float16 or float32; convert the model again"
            throw EdgeKitException.Bundle(BundleProblem.INVALID, what)
        }
        count = shape[0].toInt()
    }

    private fun text(from: Int, to: Int): String = buildString { for (place in from until to) append((bytes.get(place).toInt() and 0xFF).toChar()) }

    /** Of these tokens, one after the other. */
    fun rows(tokens: List<Int>): FloatArray = FloatArray(tokens.size * width) {
        val at = tokens[it / width] * width + it % width
        if (isHalf) float(bytes.getShort(start + 2 * at).toInt() and 0xFFFF) else bytes.getFloat(start + 4 * at)
    }

    /** A float of 16 bits. */
    private fun float(bits: Int): Float {
        val (exponent, fraction) = ((bits shr 10) and 31) to (bits and 1023)
        val sign = (bits shr 15) shl 31
        return when (exponent) {
            0 -> (if (sign == 0) 1 else -1) * fraction / 16_777_216f
            31 -> Float.fromBits(sign or 0x7F800000 or (fraction shl 13))
            else -> Float.fromBits(sign or ((exponent + 112) shl 23) or (fraction shl 13))
        }
    }
}
