package edgekit

import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.atan2
import kotlin.math.cos
import kotlin.math.expm1
import kotlin.math.floor
import kotlin.math.ln
import kotlin.math.max
import kotlin.math.sin
import kotlin.math.sqrt

/** The smallest upright box around it. */
val OrientedBox.enclosing: Box
    get() {
        val (c, s) = cos(angle) to sin(angle)
        val reachX = abs(c * width / 2) + abs(s * height / 2)
        val reachY = abs(s * width / 2) + abs(c * height / 2)
        return Box(x - reachX, y - reachY, x + reachX, y + reachY)
    }

/** The four corners, x and y, in order around the box. */
val OrientedBox.corners: List<Pair<Float, Float>>
    get() {
        val (c, s) = cos(angle) to sin(angle)
        return listOf(-1 to -1, 1 to -1, 1 to 1, -1 to 1).map { (a, b) ->
            x + (a * c * width - b * s * height) / 2 to y + (a * s * width + b * c * height) / 2
        }
    }

/** The same box with the longer side as width and the angle from -pi/2 to below pi/2. */
internal val OrientedBox.canonical: OrientedBox
    get() {
        val isTall = height > width
        val turned = angle.toDouble() + (if (isTall) PI / 2 else 0.0) + PI / 2
        var angle = (turned - floor(turned / PI) * PI - PI / 2).toFloat()
        if (angle.toDouble() >= PI / 2) angle = (-PI / 2).toFloat()
        return OrientedBox(x, y, max(width, height), if (isTall) width else height, angle)
    }

/**
 * The box of the input in pixels of the frame, also outside of it.
 *
 * Both sides are mapped as vectors. Where the frame was stretched they are no longer at right angles; then the result is
 * the rectangle whose sides are the closest to them (least squares), so that a long side keeps its direction.
 */
internal fun OrientedBox.original(mapping: Transform): OrientedBox {
    val (scaleX, scaleY) = mapping.scaleX to mapping.scaleY
    val (c, s) = cos(angle.toDouble()) to sin(angle.toDouble())
    val (alongX, alongY) = c * width / 2 / scaleX to s * width / 2 / scaleY
    val (acrossX, acrossY) = -s * height / 2 / scaleX to c * height / 2 / scaleY
    val doubleX = alongX * alongX - alongY * alongY - (acrossX * acrossX - acrossY * acrossY)
    val doubleY = 2 * alongX * alongY - 2 * acrossX * acrossY
    val turned = if (doubleX != 0.0 || doubleY != 0.0) atan2(doubleY, doubleX) / 2 else angle.toDouble()
    val (x1, y1) = cos(turned) to sin(turned)
    return OrientedBox(
        mapping.originalX(x), mapping.originalY(y), (2 * abs(alongX * x1 + alongY * y1)).toFloat(),
        (2 * abs(-acrossX * y1 + acrossY * x1)).toFloat(), turned.toFloat(),
    )
}

/** Candidates that suppression looks at, best first. */
internal const val MOST_CANDIDATES = 30_000

private const val TINY = 1e-9

/** Variance along x, along y, and covariance of points spread evenly over a box. */
private class Spread(box: OrientedBox) {
    private val c = cos(box.angle.toDouble())
    private val s = sin(box.angle.toDouble())
    private val wide = box.width.toDouble() * box.width / 12
    private val high = box.height.toDouble() * box.height / 12
    val x = wide * c * c + high * s * s
    val y = wide * s * s + high * c * c
    val xy = (wide - high) * c * s
    val determinant = max(x * y - xy * xy, TINY)
}

/**
 * Indices of the oriented boxes that survive greedy NMS by ProbIoU (Llerena et al. 2021), best score first.
 *
 * ProbIoU is one minus the Hellinger distance of the boxes' Gaussians.
 */
internal fun rotatedSuppression(
    boxes: List<OrientedBox>, scores: FloatArray, classIds: IntArray, limit: Float, classAgnostic: Boolean,
): IntArray {
    val spread = boxes.map { Spread(it) }
    fun similarity(i: Int, j: Int): Float {
        val (one, other) = spread[i] to spread[j]
        val (a, b, c) = Triple(one.x + other.x, one.y + other.y, one.xy + other.xy)
        val (x, y) = boxes[i].x.toDouble() - boxes[j].x to boxes[i].y.toDouble() - boxes[j].y
        val joint = max(a * b - c * c, TINY)
        val apart = (a * y * y + b * x * x - 2 * c * x * y) / (4 * joint)
        val shape = ln(max(joint / (4 * sqrt(one.determinant * other.determinant)), 1.0)) / 2
        return (1 - sqrt(-expm1(-(apart + shape)))).toFloat()
    }
    val kept = ArrayList<Int>()
    for (i in descending(scores).take(MOST_CANDIDATES)) {
        if (kept.none { (classAgnostic || classIds[it] == classIds[i]) && similarity(it, i) > limit }) kept.add(i)
    }
    return kept.toIntArray()
}
