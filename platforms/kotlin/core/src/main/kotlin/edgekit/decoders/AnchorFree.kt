package edgekit

import kotlin.math.PI
import kotlin.math.cos
import kotlin.math.exp
import kotlin.math.sin

/**
 * YOLOv8, 11 (with DFL) and 26 (without): distances left, top, right, bottom from the cell's centre, in strides;
 * keypoints, mask coefficients or angles beside them.
 *
 * DFL heads give each distance as logits over bins, whose expectation is the distance (Li et al. 2020).
 */
internal class AnchorFree(options: Fields) : Decoder {
    companion object : Family("anchor_free", attachments = listOf("coefficients", "keypoints", "angles")) {
        override fun open(options: Fields) = AnchorFree(options)
    }

    override val family get() = AnchorFree

    private val strides = options.read("strides", Read.list(Read.count))
    private val bins = options.read("reg_max", Read.count, or = 16)
    private val keypointScale = options.read("keypoint_scale", Read.positive, or = 2.0).toFloat()
    private val keypointOffset = options.read("keypoint_offset", Read.float, or = 0.0).toFloat()
    private val cellOffset = options.read("cell_offset", Read.float, or = 0.5).toFloat()
    private val anglesAreRadians = options.read("angle", Read.word("sigmoid", "radians"), or = "sigmoid") == "radians"

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val cut = logit(threshold)
        val boxHeads = heads.levels("boxes", strides.size)
        val classHeads = heads.levels("classes", strides.size)
        val found = Found()
        var first = 0
        for ((level, step) in strides.withIndex()) {
            val grid = Grid.of(classHeads[level], frame, step.toDouble())
            val cells = grid.cells
            val best = survivors(grid.planes(classHeads[level], frame.classes), 0, frame.classes, cells, cut)
            checkBins(boxHeads[level])
            val boxes = grid.planes(boxHeads[level], 4 * bins)
            val stride = step.toFloat()
            for (cell in 0 until cells) {
                if (!(best.values[cell] > cut)) continue
                val reach = FloatArray(4) { distance(boxes, it * bins * cells + cell, cells) }
                val box = boxAround(grid.column(cell) + cellOffset, grid.row(cell) + cellOffset, reach, stride)
                found.add(box, sigmoid(best.values[cell]), best.classIds[cell], first + cell)
            }
            first += cells
        }
        return found.candidates()
    }

    private fun checkBins(head: Tensor) {
        Grid.checkPlanes(head)
        val channels = head.shape[1]
        if (channels == 4 * bins) return
        val fits = if (channels % 4 == 0) ": reg_max: ${channels / 4}" else ""
        throw Misfit("reg_max: $bins wants ${4 * bins} channels of boxes, but there are $channels$fits")
    }

    /** One distance in strides: the expectation over the bins' logits, or the value itself where there is one bin. */
    private fun distance(values: FloatArray, at: Int, step: Int): Float {
        if (bins == 1) return values[at]
        var most = Float.NEGATIVE_INFINITY
        for (bin in 0 until bins) if (!(values[at + bin * step] <= most)) most = values[at + bin * step]
        var total = 0f
        var mean = 0f
        for (bin in 0 until bins) {
            val weight = exp(values[at + bin * step] - most)
            total += weight
            mean += weight * bin
        }
        return mean / total
    }

    override fun attach(role: String, heads: Heads, frame: InputFrame, anchors: IntArray): Attached = when (role) {
        "coefficients" -> places(heads.levels("coefficients"), anchors).attached
        "angles" -> oriented(heads, anchors)
        else -> keypoints(heads, frame, anchors)
    }

    /** Keypoints (n, k, 3); a head of two values a keypoint gives each the score 1. */
    private fun keypoints(heads: Heads, frame: InputFrame, anchors: IntArray): Attached {
        val places = places(heads.levels("keypoints"), anchors)
        val found = points(places.attached, frame.keypoints)
        val isScored = places.width == 3 * frame.keypoints
        val data = found.data
        found.eachPoint { i, at ->
            val stride = strides[places.levels[i]].toFloat()
            data[at] = (data[at] * keypointScale + (places.columns[i] + keypointOffset)) * stride
            data[at + 1] = (data[at + 1] * keypointScale + (places.rows[i] + keypointOffset)) * stride
            if (isScored) data[at + 2] = sigmoid(data[at + 2])
        }
        return found
    }

    /** Oriented boxes (n, 5): distances along axes that are turned by the angle around the place that they count from. */
    private fun oriented(heads: Heads, anchors: IntArray): Attached {
        val places = places(heads.levels("boxes"), anchors)
        val raw = places(heads.levels("angles"), anchors)
        if (raw.width != 1) throw Misfit("${raw.width} channels of angles, but 1 is needed")
        val boxes = FloatArray(5 * anchors.size)
        for (i in anchors.indices) {
            val reach = FloatArray(4) { distance(places.values, i * places.width + it * bins, 1) }
            val angle = if (anglesAreRadians) raw.values[i] else (sigmoid(raw.values[i]) - 0.25f) * PI.toFloat()
            val (c, s) = cos(angle) to sin(angle)
            val (awayX, awayY) = (reach[2] - reach[0]) / 2 to (reach[3] - reach[1]) / 2
            val stride = strides[places.levels[i]].toFloat()
            boxes[5 * i] = (places.columns[i] + cellOffset + awayX * c - awayY * s) * stride
            boxes[5 * i + 1] = (places.rows[i] + cellOffset + awayX * s + awayY * c) * stride
            boxes[5 * i + 2] = (reach[0] + reach[2]) * stride
            boxes[5 * i + 3] = (reach[1] + reach[3]) * stride
            boxes[5 * i + 4] = angle
        }
        return Attached(boxes, 5)
    }
}

/** The box that reaches so far left, up, right and down from a place, all in strides. */
internal fun boxAround(x: Float, y: Float, reach: FloatArray, stride: Float) =
    Box((x - reach[0]) * stride, (y - reach[1]) * stride, (x + reach[2]) * stride, (y + reach[3]) * stride)
