package edgekit

import kotlin.math.ceil
import kotlin.math.floor

/**
 * Instance segmentation: boxes with mask coefficients, which weigh prototypes, become masks in original pixels.
 *
 * A mask is where the sum of prototypes, each times one of the object's coefficients, is positive, cut to its box
 * (YOLACT, Bolya et al. 2019). Only the objects that NMS leaves are multiplied out, each only inside its box.
 */
internal class Segment(contract: Contract) : TaskReader {
    private val reading = Reading(contract, "coefficients")

    init {
        if ("prototypes" !in reading.order) {
            val roles = reading.order.keys.sorted().joinToString(", ")
            throw EdgeKitException.Contract("a segmentation contract has an output of the role 'prototypes', not only $roles")
        }
    }

    override fun result(outputs: List<Tensor>, mapping: Transform, thresholds: Thresholds): EdgeResult {
        val kept = reading.boxes(outputs, thresholds, "coefficients")
        val objects = reading.objects(kept, mapping)
        val prototypes = prototypes(outputs, kept)
        val masks = objects.boxes.mapIndexed { i, box -> mask(box, kept.attached?.row(i) ?: FloatArray(0), prototypes, mapping) }
        return Instances(reading.info(mapping), objects, masks)
    }

    private fun prototypes(outputs: List<Tensor>, kept: Candidates): Tensor {
        val prototypes = reading.reading(outputs) { it.levels("prototypes")[0] }
        val (shape, count) = prototypes.shape to (kept.attached?.width ?: 0)
        if (shape.size != 4 || shape.any { it < 1 } || (kept.boxes.isNotEmpty() && shape[1] != count)) {
            throw EdgeKitException.Contract("prototypes ${prototypes.shown}: (1, $count, rows, columns) is needed")
        }
        checkFinite(prototypes.data)
        return prototypes
    }

    /** The mask inside a box in original pixels. */
    private fun mask(box: Box, weights: FloatArray, prototypes: Tensor, mapping: Transform): Mask {
        val (rows, columns) = prototypes.shape[2] to prototypes.shape[3]
        val toX = columns.toDouble() / reading.frame.width
        val toY = rows.toDouble() / reading.frame.height
        val (left, top) = floor(box.x1).toInt() to floor(box.y1).toInt()
        val width = maxOf(ceil(box.x2).toInt() - left, 0)
        val height = maxOf(ceil(box.y2).toInt() - top, 0)
        val x = Cells(mapping.scaleX * toX, mapping.offsetX * toX, columns, left, left + width)
        val y = Cells(mapping.scaleY * toY, mapping.offsetY * toY, rows, top, top + height)
        val data = ByteArray(width * height)
        if (width > 0 && height > 0 && x.count > 0 && y.count > 0) magnify(weighed(weights, prototypes, x, y), x, y, width, data)
        return Mask(left, top, width, height, data)
    }
}

/** The cells that original pixels touch along one axis, one more on each side. */
private class Cells(private val scale: Double, offset: Double, cells: Int, low: Int, high: Int) {
    val first = maxOf(floor(low * scale + offset - 1).toInt(), 0)
    val count = minOf(ceil(high * scale + offset + 1).toInt(), cells) - first

    /** Where the middle of the first pixel lies in them. */
    private val at = low * scale + offset - first + (scale - 1) / 2

    /** The two cells of a pixel. Beyond the border cells go on. */
    fun lower(pixel: Int): Int = floor(at + pixel * scale).toInt().coerceIn(0, count - 1)

    fun upper(pixel: Int): Int = (floor(at + pixel * scale).toInt() + 1).coerceIn(0, count - 1)

    /** The share of the second. */
    fun share(pixel: Int): Float {
        val place = at + pixel * scale
        return (place - floor(place)).toFloat()
    }
}

/** The sum of prototypes times weights in a window: the logits of a mask. */
private fun weighed(weights: FloatArray, prototypes: Tensor, x: Cells, y: Cells): FloatArray {
    val (rows, columns) = prototypes.shape[2] to prototypes.shape[3]
    val (data, total) = prototypes.data to FloatArray(x.count * y.count)
    for ((k, weight) in weights.withIndex()) {
        for (row in 0 until y.count) {
            val from = (k * rows + y.first + row) * columns + x.first
            val to = row * x.count
            for (i in 0 until x.count) total[to + i] += weight * data[from + i]
        }
    }
    return total
}

/** Write where bilinear interpolation between cells is positive. */
private fun magnify(logits: FloatArray, x: Cells, y: Cells, width: Int, target: ByteArray) {
    val lower = IntArray(width) { x.lower(it) }
    val upper = IntArray(width) { x.upper(it) }
    val share = FloatArray(width) { x.share(it) }
    val columns = x.count
    val blended = FloatArray(columns)
    for (j in 0 until target.size / width) {
        val above = y.lower(j) * columns
        val below = y.upper(j) * columns
        val part = y.share(j)
        for (k in 0 until columns) blended[k] = logits[above + k] * (1 - part) + logits[below + k] * part
        for (i in 0 until width) {
            val logit = blended[lower[i]] * (1 - share[i]) + blended[upper[i]] * share[i]
            target[j * width + i] = if (logit > 0) 1 else 0
        }
    }
}
