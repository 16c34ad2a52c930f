package edgekit

/** Below this sum of areas OpenCV takes any two boxes for the same one. */
private val NOTHING = Math.ulp(1.0)

/**
 * Indices of the boxes that survive greedy NMS, best score first.
 *
 * A box is dropped when its IoU with a better, kept box of the same class (any class when [classAgnostic]) is above
 * [limit]. Equal to `cv2.dnn.NMSBoxesBatched`, which Python's runtime calls: boxes without an area count as one.
 */
internal fun nonMaximumSuppression(
    boxes: List<Box>, scores: FloatArray, classIds: IntArray, limit: Float, classAgnostic: Boolean = false,
): IntArray {
    val order = descending(scores)
    val kept = IntArray(minOf(order.size, MOST_CANDIDATES))
    // Kept boxes side by side, which is faster to go through than boxes all over the place: x1, y1, x2, y2, area.
    val sides = DoubleArray(5 * kept.size)
    var count = 0
    for (i in order.take(kept.size)) {
        val at = 5 * count
        val box = boxes[i]
        sides[at] = box.x1.toDouble()
        sides[at + 1] = box.y1.toDouble()
        sides[at + 2] = maxOf(box.x2, box.x1).toDouble()
        sides[at + 3] = maxOf(box.y2, box.y1).toDouble()
        sides[at + 4] = (sides[at + 2] - sides[at]) * (sides[at + 3] - sides[at + 1])
        val isDropped = (0 until count).any { k ->
            val isSameClass = classAgnostic || classIds[kept[k]] == classIds[i]
            covers(sides, 5 * k, at, isSameClass, limit)
        }
        if (!isDropped) kept[count++] = i
    }
    return kept.copyOf(count)
}

/** Whether a kept box is so like another that it takes its place. */
private fun covers(sides: DoubleArray, one: Int, other: Int, isSameClass: Boolean, limit: Float): Boolean {
    val sum = sides[one + 4] + sides[other + 4]
    if (sum <= NOTHING) return limit < 1
    if (!isSameClass) return false
    val width = minOf(sides[one + 2], sides[other + 2]) - maxOf(sides[one], sides[other])
    val height = minOf(sides[one + 3], sides[other + 3]) - maxOf(sides[one + 1], sides[other + 1])
    if (width <= 0 || height <= 0) return false
    val shared = width * height
    return 1 - (1 - (shared / (sum - shared)).toFloat()) > limit
}
