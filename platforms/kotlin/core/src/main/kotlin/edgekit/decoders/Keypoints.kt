package edgekit

/** Keypoints of one person that the graph decoded itself: role `predictions` (..., k, 3). MoveNet as published: yxs. */
internal class Keypoints(options: Fields) : Decoder {
    companion object : Family("keypoints", task = "pose") {
        override fun open(options: Fields) = Keypoints(options)
    }

    override val family get() = Keypoints

    private val isXY = options.read("order", Read.word("xys", "yxs"), or = "xys") == "xys"
    private val isNormalized = options.read("normalized", Read.bool, or = true)

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val table = matrix(heads.only("predictions"))
        if (table.columns != 3) throw Misfit("${table.columns} values for each keypoint, but 3 are needed")
        val (width, height) = if (isNormalized) frame.width.toFloat() to frame.height.toFloat() else 1f to 1f
        val points = table.data.copyOf()
        for (at in points.indices step 3) {
            val (x, y) = if (isXY) points[at] to points[at + 1] else points[at + 1] to points[at]
            points[at] = x * width
            points[at + 1] = y * height
        }
        return onePerson(points, frame, threshold)
    }
}
