package edgekit

import kotlin.math.cos
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt
import kotlin.math.sin

/** What is drawn over a frame, in its pixels: outlines, skeletons, masks and captions of one result. */
class Overlay private constructor(
    /** Of the frame. */
    val size: Size,
    val items: List<Item>,
    val bitmaps: List<Pixelmap>,
) {
    data class Point(val x: Float, val y: Float)

    /** One object. */
    class Item(
        /** A closed line: the corners of a box, upright or not. */
        val outline: List<Point>,
        val keypoints: List<Point>,
        val bones: List<Pair<Point, Point>>,
        /** ARGB. */
        val colour: Int,
        val caption: String,
        val score: Float,
    )

    /** Pixels to lay over the frame, ARGB with straight alpha: a mask in its window, or a whole label map. */
    class Pixelmap(val left: Int, val top: Int, val width: Int, val height: Int, val pixels: IntArray)

    companion object {
        /** A keypoint of which the model is less sure is not drawn. */
        private const val LEAST_KEYPOINT = 0.3f

        /** Classes that are nothing in particular are not painted. */
        private val nothing = setOf("background", "void", "unlabeled", "unlabelled")

        /** The overlay of a [result]; objects below the [score] are left out. */
        fun of(result: EdgeResult, score: Double): Overlay {
            val size = result.info.size
            val objects = result.objects ?: return Overlay(size, emptyList(), if (result is LabelMap) listOf(painted(result)) else emptyList())
            val rows = result.rows(score)
            val items = rows.map { row ->
                val (keypoints, bones) = if (result is Poses) pose(result.keypoints[row], result.skeleton) else Pair(emptyList(), emptyList())
                Item(outline(result, objects, row), keypoints, bones, objects.colour(row), objects.caption(row, result.info.classes), objects.scores[row])
            }
            val masks = if (result is Instances) rows.map { painted(result.masks[it], objects.colour(it).withAlpha(128)) } else emptyList()
            return Overlay(size, items, masks)
        }

        private fun outline(result: EdgeResult, objects: Objects, row: Int): List<Point> {
            if (result !is OrientedBoxes) {
                val (x1, y1, x2, y2) = objects.boxes[row]
                return listOf(Point(x1, y1), Point(x2, y1), Point(x2, y2), Point(x1, y2))
            }
            val box = result.oriented[row]
            val (across, along) = cos(box.angle) to sin(box.angle)
            return listOf(-1 to -1, 1 to -1, 1 to 1, -1 to 1).map { (a, b) ->
                Point(box.x + (a * across * box.width - b * along * box.height) / 2, box.y + (a * along * box.width + b * across * box.height) / 2)
            }
        }

        private fun pose(keypoints: List<Keypoint>, skeleton: Skeleton): Pair<List<Point>, List<Pair<Point, Point>>> {
            val seen = keypoints.map { if (it.score >= LEAST_KEYPOINT) Point(it.x, it.y) else null }
            val bones = skeleton.edges.mapNotNull { (from, to) -> seen[from]?.let { start -> seen[to]?.let { start to it } } }
            return seen.filterNotNull() to bones
        }

        private fun painted(mask: Mask, colour: Int): Pixelmap =
            Pixelmap(mask.left, mask.top, mask.width, mask.height, IntArray(mask.data.size) { if (mask.data[it].toInt() == 0) 0 else colour })

        private fun painted(map: LabelMap): Pixelmap {
            val names = map.info.classes
            val palette = IntArray(max(names.size, (map.labels.maxOfOrNull { it.toInt() and 0xffff } ?: 0) + 1)) { id ->
                if (names.getOrNull(id)?.lowercase()?.trim('_') in nothing) 0 else colourOf(id).withAlpha(153)
            }
            return Pixelmap(0, 0, map.info.size.width, map.info.size.height, IntArray(map.labels.size) { palette[map.labels[it].toInt() and 0xffff] })
        }
    }
}

/** A frame shown whole in the middle of a view, as `fitCenter` shows it. */
class Fitting(frame: Size, width: Double, height: Double) {
    /** Pixels of the view for a pixel of the frame. */
    val scale: Double = if (frame.width > 0 && frame.height > 0) min(width / frame.width, height / frame.height) else 0.0

    /** Where the frame's first pixel is in the view. */
    val left: Double = (width - scale * frame.width) / 2
    val top: Double = (height - scale * frame.height) / 2

    fun x(pixel: Float): Float = (left + scale * pixel).toFloat()

    fun y(pixel: Float): Float = (top + scale * pixel).toFloat()
}

/** The colour of a class or a track, ARGB: neighbours are far apart on the wheel. The same as in the web app. */
fun colourOf(number: Int): Int {
    val hue = (168 + number * 137.508) % 360 / 30
    val (saturation, lightness) = 0.85 to 0.58
    val reach = saturation * min(lightness, 1 - lightness)
    fun part(offset: Int): Int {
        val k = (offset + hue) % 12
        return ((lightness - reach * max(-1.0, minOf(k - 3, 9 - k, 1.0))) * 255).roundToInt()
    }
    return 0xff shl 24 or (part(0) shl 16) or (part(8) shl 8) or part(4)
}

private fun Int.withAlpha(alpha: Int): Int = this and 0xffffff or (alpha shl 24)

/** A track keeps its colour, whatever it is taken for. */
private fun Objects.colour(row: Int): Int = colourOf(trackIds?.get(row) ?: classIds[row])

private fun Objects.caption(row: Int, names: List<String>): String = names.named(classIds[row]) + (trackIds?.let { " #${it[row]}" } ?: "")

internal fun List<String>.named(id: Int): String = getOrNull(id) ?: "class $id"

/** Rows of the objects that score at least so much. */
internal fun EdgeResult.rows(score: Double): List<Int> = objects?.run { scores.indices.filter { scores[it] >= score } } ?: emptyList()
