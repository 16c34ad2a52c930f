package edgekit

/** SimCC, RTMPose: a keypoint as two classifications. Roles `x` (1, k, width * split) and `y` (1, k, height * split). */
internal class SimCC(options: Fields) : Decoder {
    companion object : Family("simcc", task = "pose") {
        override fun open(options: Fields) = SimCC(options)
    }

    override val family get() = SimCC

    private val split = options.read("split", Read.positive, or = 2.0)

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates {
        val across = matrix(heads.only("x"))
        val down = matrix(heads.only("y"))
        for ((bins, pixels) in listOf(across.columns to frame.width, down.columns to frame.height)) {
            val wanted = Math.rint(pixels * split)
            if (bins.toDouble() != wanted) throw Misfit("$bins bins where $wanted are needed for split $split")
        }
        if (down.rows != across.rows) throw Misfit("${across.rows} keypoints across, and ${down.rows} down")
        val points = FloatArray(3 * across.rows)
        for (k in 0 until across.rows) {
            val x = largest(across, k)
            val y = largest(down, k)
            // The lesser of the two; NaN where one is.
            val score = minOf(across.data[k * across.columns + x], down.data[k * down.columns + y])
            points[3 * k] = PIXEL_CENTRE + x / split.toFloat()
            points[3 * k + 1] = PIXEL_CENTRE + y / split.toFloat()
            points[3 * k + 2] = score.coerceIn(0f, 1f)
        }
        return onePerson(points, frame, threshold)
    }

    /** Place of the largest value of a row, the first of equals; of a NaN where there is one. */
    private fun largest(table: Matrix, row: Int): Int {
        val (data, first) = table.data to row * table.columns
        var best = 0
        for (i in 1 until table.columns) if (!data[first + best].isNaN() && !(data[first + i] <= data[first + best])) best = i
        return best
    }
}
