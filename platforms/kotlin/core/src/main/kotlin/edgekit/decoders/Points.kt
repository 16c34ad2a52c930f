package edgekit

/** Heatmaps and SimCC are trained on places that count from the centre of the first pixel; edgekit's from its corner. */
internal const val PIXEL_CENTRE = 0.5f

/** Keypoints above this score say where a person is. */
private const val VISIBLE = 0.2f

/** Values (n, 2 k or 3 k) as points (n, k, 3) of their own; without a third value the score is 1. Throws [Misfit]. */
internal fun points(values: Attached, keypoints: Int): Attached {
    if (keypoints == 0 || (values.width != 2 * keypoints && values.width != 3 * keypoints)) {
        throw Misfit("${values.width} keypoint values, but ${2 * keypoints} or ${3 * keypoints} are needed")
    }
    if (values.width == 3 * keypoints) return Attached(values.data.copyOf(), values.width)
    val data = FloatArray(values.data.size / 2 * 3) { if (it % 3 == 2) 1f else values.data[it / 3 * 2 + it % 3] }
    return Attached(data, 3 * keypoints)
}

/** Go through all points: the row of each, and where its x stands, behind which are y and the score. */
internal inline fun Attached.eachPoint(move: (row: Int, at: Int) -> Unit) {
    for (at in data.indices step 3) move(at / width, at)
}

/**
 * The one person of an input as a candidate: its score is its keypoints' mean, its box is round the sure ones.
 *
 * [points] is (k, 3): x, y in input pixels and score. Nobody is there when the score is not above the threshold.
 */
internal fun onePerson(points: FloatArray, frame: InputFrame, threshold: Double): Candidates {
    val count = points.size / 3
    if (count != frame.keypoints) throw Misfit("$count keypoints, but the skeleton names ${frame.keypoints}")
    checkFinite(points)
    val scores = FloatArray(count) { points[3 * it + 2] }
    val score = (scores.sumOf { it.toDouble() } / count).toFloat()
    val found = Found()
    if (!(score > threshold.toFloat())) return found.candidates(Attached(FloatArray(0), points.size))
    val isSure = scores.any { it > VISIBLE }
    val seen = (0 until count).filter { !isSure || scores[it] > VISIBLE }
    val x = seen.map { points[3 * it] }
    val y = seen.map { points[3 * it + 1] }
    found.add(Box(x.min(), y.min(), x.max(), y.max()), score, 0, 0)
    return found.candidates(Attached(points, points.size))
}
