package edgekit

/**
 * Follows the objects of ONE stream; make another for each further stream. Times are in seconds on any clock that runs
 * forward. One thread at a time.
 */
class Tracker private constructor(private val rules: TrackerRules) {
    private var tracks: List<Track> = emptyList()
    private var time: Double? = null
    private var nextId = 1
    private var dimension = 0

    /** The lowest score that this tracker can use: the threshold to run a detector with. */
    val leastScore: Double get() = rules.leastScore

    /** Forget everything, for a new stream; ids count from 1 again. */
    fun reset() {
        rules.reset()
        tracks = emptyList()
        time = null
        nextId = 1
        dimension = 0
    }

    /**
     * Match the detections of a frame with the tracks: [boxes] in pixels, in any order, with [scores] in 0..1 and [classIds]
     * for each, at [time] in seconds. [embeddings] are the looks of each detection, for BoT-SORT; others ignore them.
     *
     * Throws [EdgeKitException.Usage]: arrays that do not fit together, NaN, or a time that is not later than the last
     * update's. The tracker is then as it was.
     */
    fun update(boxes: List<Box>, scores: FloatArray, classIds: IntArray, time: Double, embeddings: List<FloatArray>? = null): Tracks {
        val found = Observed(boxes, scores, classIds, if (rules.usesEmbeddings) embeddings else null)
        val size = found.embeddings?.firstOrNull()?.size ?: 0
        if (size > 0 && dimension > 0 && size != dimension) {
            val what = "embeddings must keep their dimension: $dimension so far, now $size"
            throw EdgeKitException.Usage("$what; reset() the tracker for another stream")
        }
        val isFirst = advance(time)
        if (size > 0) dimension = size
        tracks = tracks.filter { isAlive(it, time) }
        val expected = tracks.map { it.motion.predicted(time - it.seen) }
        var matches = IntArray(tracks.size) { -1 }
        if (tracks.isNotEmpty() && found.count > 0) {
            val similarity = boxIoU(expected.map { it.box }, found.boxes)
            rules.keepApart(similarity, tracks, found)
            matches = rules.match(similarity, tracks, found, time)
        }
        return apply(time, found, matches, expected, isFirst)
    }

    /**
     * Follow the objects of a result.
     *
     * Throws [EdgeKitException.Usage]: a result without boxes, or as the other `update`.
     */
    fun update(result: EdgeResult, time: Double): Tracks {
        val objects = result.objects ?: throw EdgeKitException.Usage("this result has no boxes, so there is nothing to track")
        return update(objects.boxes, objects.scores, objects.classIds, time)
    }

    /**
     * Where the tracks are expected to be, for a frame in which nothing was detected on purpose. Nothing counts as missed.
     *
     * Throws [EdgeKitException.Usage]: a time before that of the last update.
     */
    fun predict(time: Double): Tracks {
        checkTime(time)
        val last = this.time
        if (last != null && time < last) {
            throw EdgeKitException.Usage("time must not be before that of the last update, $last s, but is $time s")
        }
        val all = tracks.filter { isAlive(it, time) }.map { seen(it, time, it.motion.predicted(time - it.seen).box) }
        return Tracks(time, all)
    }

    /**
     * Where a track was seen, oldest first: the newest `trajectoryPoints` of it.
     *
     * Throws [EdgeKitException.Usage]: no track of that id is alive.
     */
    fun trajectory(id: Int): List<Observation> {
        val alive = tracks.filter { it.id > 0 }
        val track = alive.firstOrNull { it.id == id }
            ?: throw EdgeKitException.Usage("track ${choices("$id", alive.map { "${it.id}" })}; tracks are forgotten when they end")
        return track.trajectory.observations
    }

    private fun isAlive(track: Track, time: Double): Boolean = time - track.seen <= rules.common.lostSeconds + CLOCK

    private fun checkTime(time: Double) {
        if (!time.isFinite()) throw EdgeKitException.Usage("time must be a finite number of seconds, not $time")
    }

    /** Set the clock; true for the first update of the stream. */
    private fun advance(time: Double): Boolean {
        checkTime(time)
        val last = this.time
        if (last != null) {
            if (time <= last) {
                val what = "time must be later than that of the last update, $last s, but is $time s"
                throw EdgeKitException.Usage("$what; reset() the tracker for another stream")
            }
            rules.passed(last)
        }
        this.time = time
        return last == null
    }

    /** Make the matches part of the tracks, begin and end tracks, and say what there is now. */
    private fun apply(time: Double, found: Observed, matches: IntArray, expected: List<Motion>, isFirst: Boolean): Tracks {
        val used = BooleanArray(found.count)
        val after = ArrayList<Track>()
        val all = ArrayList<() -> TrackedObject>() // said when all are confirmed that will be
        for ((i, track) in tracks.withIndex()) {
            val row = matches[i]
            if (row >= 0) {
                used[row] = true
                val gap = if (track.state == TrackState.LOST) time - track.seen else 0.0
                val motion = rules.corrected(track, expected[i], found, row, time)
                take(track, motion, found, row, time)
                val box = if (rules.common.boxes == TrackerOptions.Boxes.DETECTION) track.box else motion.box
                all.add { seen(track, time, box, gap, found.rows[row]) }
            } else {
                if (track.state == TrackState.TENTATIVE) continue
                track.state = TrackState.LOST
                all.add { seen(track, time, expected[i].box) }
            }
            after.add(track)
        }
        for (track in after) {
            if (track.state == TrackState.TENTATIVE && time - track.born >= rules.common.confirmSeconds - CLOCK) confirm(track)
        }
        for (row in 0 until found.count) {
            if (used[row] || !rules.begins(found.scores[row])) continue
            val track = Track(Motion.of(found.boxes[row]), found, row, time, rules.common.trajectoryPoints)
            if (isFirst || rules.common.confirmSeconds == 0.0) confirm(track)
            all.add { seen(track, time, track.box, 0.0, found.rows[row]) }
            after.add(track)
        }
        tracks = after
        return Tracks(time, all.map { it() })
    }

    /** Note that a track was seen as a detection. */
    private fun take(track: Track, motion: Motion, found: Observed, row: Int, time: Double) {
        track.motion = motion
        track.box = found.boxes[row]
        track.score = found.scores[row]
        track.classId = found.classIds[row]
        track.seen = time
        if (track.state == TrackState.LOST) track.state = TrackState.TRACKED
        track.trajectory.append(time, track.box)
    }

    private fun confirm(track: Track) {
        track.id = nextId++
        track.state = TrackState.TRACKED
    }

    private fun seen(track: Track, time: Double, box: Box, gap: Double = 0.0, detection: Int? = null) =
        TrackedObject(track.id, box, track.score, track.classId, track.state, time - track.born, time - track.seen, gap, detection)

    companion object {
        /** Seconds that time stamps may be off, from rounding to milliseconds. */
        private const val CLOCK = 1e-3

        /** SORT (Bewley et al., arXiv 1602.00763): the baseline. */
        fun sort(options: SortOptions = SortOptions()) = Tracker(SortRules(options))

        /** ByteTrack (Zhang et al., arXiv 2110.06864): the weak detections count, too. */
        fun byteTrack(options: ByteTrackOptions = ByteTrackOptions()) = Tracker(ByteTrackRules(options))

        /** OC-SORT (Cao et al., arXiv 2203.14360): for objects that change direction and hide. */
        fun ocSort(options: OCSortOptions = OCSortOptions()) = Tracker(OCSortRules(options))

        /** BoT-SORT (Aharon et al., arXiv 2206.14651) without camera motion: ByteTrack with, given embeddings, appearance. */
        fun botSort(options: BoTSortOptions = BoTSortOptions()) = Tracker(BoTSortRules(options))

        private val byName: Map<String, (NamedOptions) -> Tracker> = mapOf(
            "botsort" to { botSort(BoTSortOptions.named(it)) }, "bytetrack" to { byteTrack(ByteTrackOptions.named(it)) },
            "ocsort" to { ocSort(OCSortOptions.named(it)) }, "sort" to { sort(SortOptions.named(it)) },
        )

        /**
         * A tracker by the name that manifests and Python give it, with options likewise: `Double`, `Boolean` or `String`.
         *
         * Throws [EdgeKitException.Usage]: no such tracker or option, or a value out of range.
         */
        fun named(name: String, options: Map<String, Any> = emptyMap()): Tracker {
            val open = byName[name] ?: throw EdgeKitException.Usage("tracker ${choices(name, byName.keys)}")
            val given = NamedOptions(options)
            return open(given).also { given.finish() }
        }
    }
}
