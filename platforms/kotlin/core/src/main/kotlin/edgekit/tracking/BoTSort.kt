package edgekit

/** Options of BoT-SORT. */
data class BoTSortOptions(
    /** What it shares with ByteTrack. */
    val byteTrack: ByteTrackOptions = ByteTrackOptions(),
    /** Half the cosine distance up to which two appearances may be one object's. */
    val maxDistance: Double = 0.25,
    /** IoU below which appearance is not asked. */
    val minProximity: Double = 0.5,
    /** Share of its old appearance that a track keeps at each detection. */
    val memory: Double = 0.9,
) {
    init {
        inRange("max_distance" to maxDistance, "min_proximity" to minProximity, "memory" to memory)
    }

    internal companion object {
        fun named(given: NamedOptions): BoTSortOptions {
            given.only("camera_motion", "off") // this library does not look at images
            return BoTSortOptions(
                ByteTrackOptions.named(given), given.number("max_distance", 0.25), given.number("min_proximity", 0.5), given.number("memory", 0.9),
            )
        }
    }
}

/** Without embeddings it does without appearance. It does not look at images: the camera should stand still. */
internal class BoTSortRules(private val options: BoTSortOptions) : TrackerRules {
    private val base = ByteTrackRules(options.byteTrack)

    override val common get() = base.common
    override val leastScore get() = base.leastScore
    override val usesEmbeddings get() = true

    override fun begins(score: Float): Boolean = base.begins(score)

    override fun match(similarity: FloatArray, tracks: List<Track>, found: Observed, time: Double): IntArray {
        val closeness = base.closeness(similarity, found)
        val embeddings = found.embeddings ?: return base.match(similarity, tracks, found, closeness)
        val (least, proximity) = (1 - options.maxDistance).toFloat() to options.minProximity.toFloat()
        for ((i, track) in tracks.withIndex()) {
            val own = track.embedding
            if (own == null || !track.hasLooks) continue
            for (j in 0 until found.count) {
                val at = i * found.count + j
                if (!(similarity[at] >= proximity)) continue
                val alike = 0.5f + 0.5f * product(own, embeddings[j]) // 1 - half the cosine distance
                if (alike >= least) closeness[at] = maxOf(closeness[at], alike)
            }
        }
        return base.match(similarity, tracks, found, closeness)
    }

    private fun product(one: FloatArray, other: FloatArray): Float {
        var sum = 0.0
        for (k in one.indices) sum += one[k].toDouble() * other[k]
        return sum.toFloat()
    }

    override fun corrected(track: Track, expected: Motion, found: Observed, row: Int, time: Double): Motion {
        // Weak detections are matched by place alone and are mostly half hidden: what they look like is not learnt.
        val fresh = found.embeddings?.get(row)
        if (fresh != null && found.scores[row] >= options.byteTrack.highScore.toFloat()) {
            val (old, share) = track.embedding to options.memory.toFloat()
            track.embedding =
                if (old != null && track.hasLooks) unit(FloatArray(fresh.size) { share * old[it] + (1 - share) * fresh[it] }) else unit(fresh)
        }
        return super.corrected(track, expected, found, row, time)
    }
}
