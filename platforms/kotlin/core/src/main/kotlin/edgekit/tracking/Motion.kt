package edgekit

/**
 * Constant-velocity Kalman filter of one track, in continuous time.
 *
 * State: centre x, centre y, width, height and their velocities, with noise in proportion to the size of the object
 * (DeepSORT, arXiv 1703.07402; width and height each their own as in BoT-SORT, arXiv 2206.14651). All noise is diagonal
 * per coordinate, so the 8x8 filter falls apart into four independent filters of (position, velocity), one a lane.
 *
 * The papers count in frames of about 30 per second. Here the same noise is a rate per second, so that predicting 0.2 s
 * once or 0.02 s ten times is the same.
 */
internal class Motion private constructor(
    private val position: DoubleArray,
    private val velocity: DoubleArray,
    private val variance: DoubleArray,
    private val covariance: DoubleArray,
    private val spread: DoubleArray,
    /** (w, h, w, h), at least a pixel, lest an empty box be taken for a perfect measurement. */
    private val size: DoubleArray,
) {
    /** Where the object is taken to be. */
    val box: Box
        get() {
            val (x, y, width, height) = position
            return Box(
                (x - width * 0.5).toFloat(), (y - height * 0.5).toFloat(), (x + width * 0.5).toFloat(), (y + height * 0.5).toFloat(),
            )
        }

    /** The state after [time] seconds. */
    fun predicted(time: Double): Motion {
        val next = Motion(DoubleArray(4), velocity, DoubleArray(4), DoubleArray(4), DoubleArray(4), size)
        for (k in 0 until 4) {
            val square = size[k] * size[k]
            val push = square * PUSH * time
            val place = position[k] + velocity[k] * time
            next.position[k] = if (k < 2) place else place.coerceIn(size[k] / STRETCH, size[k] * STRETCH)
            val grown = spread[k] * time
            val pushed = push * time
            val rate = covariance[k] * 2 + grown + square * DRIFT + pushed * (1.0 / 3)
            next.variance[k] = variance[k] + rate * time
            next.covariance[k] = covariance[k] + (grown + pushed * 0.5)
            next.spread[k] = spread[k] + push
        }
        return next
    }

    /** The state corrected by a measurement, as [measured] gives it. */
    fun corrected(measured: DoubleArray): Motion {
        val position = DoubleArray(4)
        val next = Motion(position, DoubleArray(4), DoubleArray(4), DoubleArray(4), DoubleArray(4), DoubleArray(4))
        for (k in 0 until 4) {
            val noise = size[k] * MEASUREMENT
            val total = variance[k] + noise * noise
            val gain = variance[k] / total
            val pull = covariance[k] / total
            val error = measured[k] - this.position[k]
            position[k] = this.position[k] + gain * error
            next.velocity[k] = velocity[k] + pull * error
            next.variance[k] = (1 - gain) * variance[k]
            next.spread[k] = spread[k] - pull * covariance[k]
            next.covariance[k] = (1 - gain) * covariance[k]
        }
        sizes(position).copyInto(next.size)
        return next
    }

    companion object {
        /** Frames per second of the papers' per-frame weights. */
        private const val FRAME_RATE = 25.0

        /** Standard deviation of a detection, in sizes; likewise what a position drifts by in one frame. */
        private const val MEASUREMENT = 1.0 / 20

        /** What the velocity changes by in one frame, in sizes per frame. */
        private const val ACCELERATION = 1.0 / 160

        /** Most that an unseen object is taken to grow or shrink. */
        private const val STRETCH = 4.0

        private const val DRIFT = MEASUREMENT * MEASUREMENT * FRAME_RATE
        private const val PUSH = (ACCELERATION * FRAME_RATE) * (ACCELERATION * FRAME_RATE) * FRAME_RATE
        private const val START = (10 * ACCELERATION * FRAME_RATE) * (10 * ACCELERATION * FRAME_RATE)

        /** Centre and size of a box. */
        fun measured(box: Box): DoubleArray = doubleArrayOf(
            ((box.x1 + box.x2) * 0.5f).toDouble(), ((box.y1 + box.y2) * 0.5f).toDouble(), box.width.toDouble(), box.height.toDouble(),
        )

        /** The state of a new track from its first detection. */
        fun of(box: Box): Motion {
            val position = measured(box)
            val size = sizes(position)
            return Motion(
                position, DoubleArray(4), DoubleArray(4) { size[it] * size[it] * (4 * MEASUREMENT * MEASUREMENT) }, DoubleArray(4),
                DoubleArray(4) { size[it] * size[it] * START }, size,
            )
        }

        private fun sizes(position: DoubleArray) = DoubleArray(4) { maxOf(position[2 + it % 2], 1.0) }
    }
}
