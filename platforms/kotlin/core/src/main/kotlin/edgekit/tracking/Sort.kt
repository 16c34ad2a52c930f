package edgekit

/** Options of SORT. */
data class SortOptions(
    val common: TrackerOptions = TrackerOptions(confirmSeconds = 2.0 / 30),
    /** Detections below it are ignored; 0.5 in the paper. */
    val minScore: Double = 0.5,
    /** IoU of a detection with where its track is expected; 0.3 in the paper's code. */
    val minIoU: Double = 0.3,
) {
    init {
        inRange("min_score" to minScore, "min_iou" to minIoU)
    }

    internal companion object {
        fun named(given: NamedOptions) = SortOptions(given.common(2.0 / 30), given.number("min_score", 0.5), given.number("min_iou", 0.3))
    }
}

/** SORT, with tracks that live on for `lostSeconds` like everyone's (the paper drops them at the first miss). */
internal class SortRules(private val options: SortOptions) : TrackerRules {
    override val common get() = options.common
    override val leastScore get() = options.minScore

    override fun begins(score: Float): Boolean = score >= options.minScore.toFloat()

    override fun match(similarity: FloatArray, tracks: List<Track>, found: Observed, time: Double): IntArray {
        val matches = IntArray(tracks.size) { -1 }
        val strong = indicesWhere(found.count) { begins(found.scores[it]) }
        stage(similarity, found.count, IntArray(tracks.size) { it }, strong, similarity, options.minIoU, matches)
        return matches
    }
}
