package edgekit

import kotlin.math.exp

/** IoU of each box of one set with each of another, (n, m) row after row; 0 where empty. */
internal fun boxIoU(first: List<Box>, second: List<Box>): FloatArray {
    val areas = FloatArray(second.size) { second[it].area }
    val result = FloatArray(first.size * second.size)
    for (i in first.indices) {
        val one = first[i]
        val own = one.area
        for (j in second.indices) {
            val other = second[j]
            val width = minOf(one.x2, other.x2) - maxOf(one.x1, other.x1)
            if (!(width > 0)) continue
            val height = minOf(one.y2, other.y2) - maxOf(one.y1, other.y1)
            if (!(height > 0)) continue
            val overlap = width * height
            val union = own + areas[j] - overlap
            result[i * second.size + j] = if (union > 0) overlap / union else overlap
        }
    }
    return result
}

/** What a distance is divided by for each keypoint: (2 sigma)^2. */
private fun spread(sigmas: List<Double>) = DoubleArray(sigmas.size) {
    val double = 2 * sigmas[it].toFloat()
    (double * double).toDouble()
}

/** OKS of two poses with the first one's area: as COCO scores keypoints, all counted alike. */
private fun oks(first: List<Keypoint>, second: List<Keypoint>, area: Float, spread: DoubleArray): Float {
    var sum = 0.0
    for (k in spread.indices) {
        val dx = first[k].x.toDouble() - second[k].x
        val dy = first[k].y.toDouble() - second[k].y
        sum += exp(-(dx * dx + dy * dy) / (2 * spread[k] * maxOf(area, 1e-6f)))
    }
    return (sum / spread.size).toFloat()
}

/** Object keypoint similarity of every pose of one set with every pose of another, (n, m) row after row. */
internal fun keypointSimilarity(
    first: List<List<Keypoint>>, second: List<List<Keypoint>>, areas: FloatArray, sigmas: List<Double>,
): FloatArray {
    val spread = spread(sigmas)
    return FloatArray(first.size * second.size) { oks(first[it / second.size], second[it % second.size], areas[it / second.size], spread) }
}

/**
 * Indices of the poses that survive greedy NMS by OKS, best score first.
 *
 * Boxes of one person differ more than its keypoints do, so that top-down pipelines drop their doubles by OKS.
 *
 * [areas] are of each object in square pixels, about 0.53 of a person's box; [sigmas] the spread of every keypoint, see
 * [Skeleton.sigmas]; [limit] the OKS above which the worse of two poses is dropped.
 */
fun keypointSuppression(
    keypoints: List<List<Keypoint>>, scores: FloatArray, areas: FloatArray, sigmas: List<Double>, limit: Double,
): IntArray {
    val spread = spread(sigmas)
    val kept = ArrayList<Int>()
    for (i in descending(scores)) {
        if (kept.all { oks(keypoints[it], keypoints[i], areas[it], spread) <= limit.toFloat() }) kept.add(i)
    }
    return kept.toIntArray()
}
