package edgekit

/** Options of ByteTrack. */
data class ByteTrackOptions(
    val common: TrackerOptions = TrackerOptions(),
    /** Detections from here on are matched first, with all tracks; 0.6 in the paper. */
    val highScore: Double = 0.6,
    /** Detections between this and [highScore] are matched with what then is left; 0.1. */
    val lowScore: Double = 0.1,
    /** Detections from here on may begin a track. */
    val newScore: Double = 0.7,
    /** Of the first matching, IoU times score. */
    val minSimilarity: Double = 0.2,
    /** Of the second matching, with weak detections. */
    val minIoU: Double = 0.5,
    /** IoU times score of the matching of tentative tracks. */
    val tentativeSimilarity: Double = 0.3,
) {
    init {
        inRange("high_score" to highScore, "low_score" to lowScore, "new_score" to newScore)
        inRange("min_similarity" to minSimilarity, "min_iou" to minIoU, "tentative_similarity" to tentativeSimilarity)
        if (!(lowScore <= highScore && highScore <= newScore)) {
            throw EdgeKitException.Usage("low_score <= high_score <= new_score must hold, not $lowScore, $highScore, $newScore")
        }
    }

    internal companion object {
        fun named(given: NamedOptions) = ByteTrackOptions(
            given.common(), given.number("high_score", 0.6), given.number("low_score", 0.1), given.number("new_score", 0.7),
            given.number("min_similarity", 0.2), given.number("min_iou", 0.5), given.number("tentative_similarity", 0.3),
        )
    }
}

/**
 * The paper's second matching leaves out lost tracks. Here they take part: in a crowd, who comes back into sight is half
 * hidden at first and weakly detected, and would stay lost until nobody stands in front any more.
 */
internal class ByteTrackRules(private val options: ByteTrackOptions) : TrackerRules {
    override val common get() = options.common
    override val leastScore get() = options.lowScore

    override fun begins(score: Float): Boolean = score >= options.newScore.toFloat()

    override fun match(similarity: FloatArray, tracks: List<Track>, found: Observed, time: Double): IntArray =
        match(similarity, tracks, found, closeness(similarity, found))

    /** Similarity (n, m) of the first and third matching: IoU times score. */
    fun closeness(similarity: FloatArray, found: Observed) = FloatArray(similarity.size) { similarity[it] * found.scores[it % found.count] }

    fun match(similarity: FloatArray, tracks: List<Track>, found: Observed, closeness: FloatArray): IntArray {
        val width = found.count
        val matches = IntArray(tracks.size) { -1 }
        val isHigh = BooleanArray(width) { found.scores[it] >= options.highScore.toFloat() }
        val known = indicesWhere(tracks.size) { tracks[it].state != TrackState.TENTATIVE }
        stage(closeness, width, known, indicesWhere(width) { isHigh[it] }, closeness, options.minSimilarity, matches)
        val weak = indicesWhere(width) { !isHigh[it] && found.scores[it] > options.lowScore.toFloat() }
        val left = known.filter { matches[it] < 0 }.toIntArray()
        stage(similarity, width, left, weak, similarity, options.minIoU, matches)
        val tentative = indicesWhere(tracks.size) { tracks[it].state == TrackState.TENTATIVE }
        if (tentative.isEmpty()) return matches
        for (j in matches) if (j >= 0) isHigh[j] = false
        stage(closeness, width, tentative, indicesWhere(width) { isHigh[it] }, closeness, options.tentativeSimilarity, matches)
        return matches
    }
}
