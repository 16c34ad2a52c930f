package edgekit

import kotlin.math.PI
import kotlin.math.acos
import kotlin.math.sqrt

/** Options of OC-SORT. */
data class OCSortOptions(
    val common: TrackerOptions = TrackerOptions(confirmSeconds = 2.0 / 30),
    /** Detections below it are ignored. */
    val minScore: Double = 0.6,
    /** IoU of a detection with where its track is expected, or was last seen. */
    val minIoU: Double = 0.3,
    /** What a detection straight ahead gains over one straight behind, times its score. */
    val directionWeight: Double = 0.2,
    /** Over how many seconds a direction is measured. */
    val directionSeconds: Double = 0.1,
) {
    init {
        inRange("min_score" to minScore, "min_iou" to minIoU, "direction_weight" to directionWeight)
        inRange("direction_seconds" to directionSeconds, most = Double.POSITIVE_INFINITY)
    }

    internal companion object {
        fun named(given: NamedOptions) = OCSortOptions(
            given.common(2.0 / 30), given.number("min_score", 0.6), given.number("min_iou", 0.3), given.number("direction_weight", 0.2),
            given.number("direction_seconds", 0.1),
        )
    }
}

/** Observation-centric momentum (OCM), recovery (OCR) and re-update (ORU): filter errors do not build up when lost. */
internal class OCSortRules(private val options: OCSortOptions) : TrackerRules {
    /** Times of the updates that a lost track may have missed. */
    private val updates = ArrayDeque<Double>()

    override val common get() = options.common
    override val leastScore get() = options.minScore

    override fun begins(score: Float): Boolean = score >= options.minScore.toFloat()

    override fun reset() = updates.clear()

    override fun passed(time: Double) {
        val oldest = time - common.lostSeconds - 1
        updates.removeAll { it <= oldest }
        updates.addLast(time)
    }

    override fun match(similarity: FloatArray, tracks: List<Track>, found: Observed, time: Double): IntArray {
        val matches = IntArray(tracks.size) { -1 }
        val isStrong = BooleanArray(found.count) { begins(found.scores[it]) }
        val gains = withMomentum(similarity, tracks, found, time)
        val some = indicesWhere(found.count) { isStrong[it] }
        stage(gains, found.count, IntArray(tracks.size) { it }, some, similarity, options.minIoU, matches)
        for (j in matches) if (j >= 0) isStrong[j] = false
        val rows = indicesWhere(matches.size) { matches[it] < 0 }
        val columns = indicesWhere(found.count) { isStrong[it] }
        if (rows.isEmpty() || columns.isEmpty()) return matches
        // OCR: perhaps it stayed where it was last seen.
        val again = boxIoU(tracks.map { it.box }, found.boxes)
        keepApart(again, tracks, found)
        stage(again, found.count, rows, columns, again, options.minIoU, matches)
        return matches
    }

    /**
     * OCM: the similarity (n, m) with, where there is any, how well a detection lies in its track's direction.
     *
     * The direction of a track is from where it was `directionSeconds` before it was last seen to there, and the direction
     * to a detection is from where it was that long before now. Only where there is a choice.
     */
    private fun withMomentum(similarity: FloatArray, tracks: List<Track>, found: Observed, time: Double): FloatArray {
        val ago = options.directionSeconds
        if (options.directionWeight == 0.0 || Assignment.uncontested(similarity, tracks.size, found.count) != null) return similarity
        val gains = similarity.copyOf()
        for ((i, track) in tracks.withIndex()) {
            val row = i * found.count
            if (track.trajectory.count < 2) {
                // Without a direction there is no bonus, and no gain below the least.
                for (at in row until row + found.count) if (gains[at] != 0f) gains[at] = maxOf(gains[at], LEAST)
                continue
            }
            val heading = Direction(track.trajectory.atOrBefore(track.seen - ago + 1e-6), track.box)
            val anchor = track.trajectory.atOrBefore(time - ago + 1e-6)
            for (j in 0 until found.count) {
                if (similarity[row + j] == 0f) continue
                val wanted = Direction(anchor, found.boxes[j])
                val angle = acos((heading.x * wanted.x + heading.y * wanted.y).coerceIn(-1f, 1f))
                val bonus = ((0.5 - angle / PI) * options.directionWeight * found.scores[j]).toFloat()
                gains[row + j] = maxOf(similarity[row + j] + bonus, LEAST)
            }
        }
        return gains
    }

    override fun corrected(track: Track, expected: Motion, found: Observed, row: Int, time: Double): Motion {
        val motion = if (track.state == TrackState.LOST) reupdated(track, found.boxes[row], time) else expected
        return motion.corrected(Motion.measured(found.boxes[row]))
    }

    /**
     * ORU: the expected state as if the lost track had been seen on a straight way to where it is now.
     *
     * A virtual observation for each update that missed it; the error that the filter piled up meanwhile is gone.
     */
    private fun reupdated(track: Track, box: Box, time: Double): Motion {
        val (start, goal) = Motion.measured(track.box) to Motion.measured(box)
        var motion = track.motion
        var since = track.seen
        for (moment in updates) {
            if (moment <= track.seen) continue
            val share = (moment - track.seen) / (time - track.seen)
            motion = motion.predicted(moment - since).corrected(DoubleArray(4) { start[it] + share * (goal[it] - start[it]) })
            since = moment
        }
        return motion.predicted(time - since)
    }

    private companion object {
        const val LEAST = 1e-6f
    }
}

/** The direction from the middle of one box to that of another, of length 1, or near 0 where there is none. */
private class Direction(from: Box, to: Box) {
    private val wayX = (to.x1 + to.x2) * 0.5f - (from.x1 + from.x2) * 0.5f
    private val wayY = (to.y1 + to.y2) * 0.5f - (from.y1 + from.y2) * 0.5f
    private val length = sqrt(wayX.toDouble() * wayX + wayY.toDouble() * wayY).toFloat() + 1e-6f
    val x = wayX / length
    val y = wayY / length
}
