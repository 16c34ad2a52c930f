package edgekit

/** In what trackers differ: the matching of detections with tracks. */
internal interface TrackerRules {
    val common: TrackerOptions

    /** The lowest score that is of use. */
    val leastScore: Double

    /** Whether looks are compared. */
    val usesEmbeddings: Boolean get() = false

    /** Whether a detection may begin a track when none takes it. */
    fun begins(score: Float): Boolean

    /**
     * The detection of each track, -1 without one. [similarity] (n, m) is the IoU of where the tracks are expected with the
     * detections; 0 where they must not match.
     */
    fun match(similarity: FloatArray, tracks: List<Track>, found: Observed, time: Double): IntArray

    /** The expected motion of a track corrected by its detection; the looks of the track may change, too. */
    fun corrected(track: Track, expected: Motion, found: Observed, row: Int, time: Double): Motion =
        expected.corrected(Motion.measured(found.boxes[row]))

    /** Note the time of the update before this one. */
    fun passed(time: Double) = Unit

    fun reset() = Unit

    /** Set similarities (n, m) of tracks and detections of different classes to 0, where classes count. */
    fun keepApart(similarity: FloatArray, tracks: List<Track>, found: Observed) {
        if (!common.classAware) return
        for (at in similarity.indices) if (tracks[at / found.count].classId != found.classIds[at % found.count]) similarity[at] = 0f
    }

    /**
     * Match these tracks (rows) with these detections (columns): the pairs of the best total gain that are close enough.
     *
     * What is not close is rejected after the assignment, not before (SORT, section 3.3; ByteTrack, section 4.1).
     */
    fun stage(gains: FloatArray, width: Int, rows: IntArray, columns: IntArray, closeness: FloatArray, least: Double, matches: IntArray) {
        if (rows.isEmpty() || columns.isEmpty()) return
        val count = rows.size * columns.size
        val some = if (count == gains.size) gains else FloatArray(count) { gains[rows[it / columns.size] * width + columns[it % columns.size]] }
        for ((i, j) in Assignment.assign(some, rows.size, columns.size).withIndex()) {
            if (j >= 0 && closeness[rows[i] * width + columns[j]] >= least.toFloat()) matches[rows[i]] = columns[j]
        }
    }
}
