package edgekit

import kotlin.math.max
import kotlin.math.min

/**
 * The map from pixels of the upright frame to pixels of the input: `x' = x * scaleX + offsetX`, and the same for y.
 *
 * It is computed once for each frame; the way in and the way out use the very same numbers.
 */
internal class Transform(
    val scaleX: Double,
    val scaleY: Double,
    val offsetX: Double,
    val offsetY: Double,
    /** Of the upright frame. */
    val size: Size,
    /** What the whole frame is scaled to. */
    val resized: Size,
) {
    fun originalX(x: Float): Float = ((x.toDouble() - offsetX) / scaleX).toFloat()

    fun originalY(y: Float): Float = ((y.toDouble() - offsetY) / scaleY).toFloat()

    /** A box of the input in pixels of the frame, clipped to it. */
    fun original(box: Box): Box = Box(originalX(box.x1), originalY(box.y1), originalX(box.x2), originalY(box.y2)).clipped(size)

    companion object {
        /** The map that an image rule means for a frame. */
        fun of(rule: ImageRule, width: Int, height: Int): Transform {
            val resized = resized(rule, width, height)
            // Whole-pixel offsets: a half-pixel pad would shift every box by half a pixel. Shifting right rounds down.
            val isCentred = rule.align == ImageRule.Align.CENTER
            return Transform(
                scaleX = resized.width.toDouble() / width,
                scaleY = resized.height.toDouble() / height,
                offsetX = if (isCentred) ((rule.width - resized.width) shr 1).toDouble() else 0.0,
                offsetY = if (isCentred) ((rule.height - resized.height) shr 1).toDouble() else 0.0,
                size = Size(width, height),
                resized = resized,
            )
        }

        /** The map to the part around a box: grown to the input's shape, never stretched. */
        fun around(box: Box, margin: Double, rule: ImageRule, size: Size): Transform {
            val (columns, rows) = rule.width.toDouble() to rule.height.toDouble()
            val wide = max(box.x2.toDouble() - box.x1, 1.0) * margin
            val high = max(box.y2.toDouble() - box.y1, 1.0) * margin
            val scaleX = columns / max(wide, high * (columns / rows))
            val scaleY = rows / max(high, wide / (columns / rows))
            val offsetX = columns / 2 - (box.x1.toDouble() + box.x2) / 2 * scaleX
            val offsetY = rows / 2 - (box.y1.toDouble() + box.y2) / 2 * scaleY
            return Transform(scaleX, scaleY, offsetX, offsetY, size, Size(rounded(size.width * scaleX), rounded(size.height * scaleY)))
        }

        /** The map of a picture that has the input's size already: nothing changes. */
        fun whole(rule: ImageRule): Transform {
            val size = Size(rule.width, rule.height)
            return Transform(1.0, 1.0, 0.0, 0.0, size, size)
        }

        private fun resized(rule: ImageRule, width: Int, height: Int): Size {
            if (rule.resize == ImageRule.Resize.STRETCH) return Size(rule.width, rule.height)
            val (across, down) = rule.width.toDouble() / width to rule.height.toDouble() / height
            val isCrop = rule.resize == ImageRule.Resize.CROP
            val ratio = if (isCrop) max(across, down) / rule.crop else min(across, down)
            val (wide, high) = max(1, rounded(width * ratio)) to max(1, rounded(height * ratio))
            // Rounding must not leave a border uncovered.
            return if (isCrop) Size(max(wide, rule.width), max(high, rule.height)) else Size(wide, high)
        }
    }
}
