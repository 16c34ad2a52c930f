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
    val offsetX: Int,
    val offsetY: Int,
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
                offsetX = if (isCentred) (rule.width - resized.width) shr 1 else 0,
                offsetY = if (isCentred) (rule.height - resized.height) shr 1 else 0,
                size = Size(width, height),
                resized = resized,
            )
        }

        /** The map of a picture that has the input's size already: nothing changes. */
        fun whole(rule: ImageRule): Transform {
            val size = Size(rule.width, rule.height)
            return Transform(1.0, 1.0, 0, 0, size, size)
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
