package edgekit

/** Life-cycle state of a track. */
enum class TrackState {
    /** Seen but not believed yet; its id is -1. */
    TENTATIVE,

    /** Believed and seen. */
    TRACKED,

    /** Believed and not seen. */
    LOST,
}

/** One track at one moment. */
data class TrackedObject(
    /** Counted from 1 in the order in which tracks were confirmed; -1 while tentative. */
    val id: Int,
    /**
     * Where the filter takes the track to be after its detection (the detection's own box with `Boxes.DETECTION`), or without
     * one, where it is expected.
     */
    val box: Box,
    val score: Float,
    val classId: Int,
    val state: TrackState,
    /** Seconds since it was first seen, and last seen. */
    val age: Double,
    val unseen: Double,
    /** Where found again in this frame: seconds since it was last seen before; else 0. */
    val gap: Double,
    /** Row of the detection in the arrays given to this update; null without one. */
    val detection: Int?,
)

/** All tracks of a stream at one moment, oldest first. */
class Tracks(val time: Double, val all: List<TrackedObject>) {
    /** The confirmed tracks that are in sight: what counts and what is drawn. */
    val visible: List<TrackedObject> get() = all.filter { it.state == TrackState.TRACKED }
}

/** One sight of a track. */
data class Observation(val time: Double, val box: Box)

/** A track as it is kept between frames. [motion] is as of [seen]; it is never changed in place. */
internal class Track(var motion: Motion, found: Observed, row: Int, val born: Double, points: Int) {
    var box: Box = found.boxes[row]
    var score: Float = found.scores[row]
    var classId: Int = found.classIds[row]
    var id = -1
    var state = TrackState.TENTATIVE
    var seen = born
    val trajectory = Trajectory(points).also { it.append(born, box) }

    /** Unit vector of appearance. */
    var embedding: FloatArray? = found.embeddings?.get(row)

    /** Whether anything is known of its looks. */
    val hasLooks: Boolean get() = embedding?.any { it != 0f } ?: false
}

/** The newest observations of one track, in memory that does not grow: a ring. */
internal class Trajectory(private val size: Int) {
    private val ring = ArrayList<Observation>()
    var count = 0
        private set

    fun append(time: Double, box: Box) {
        val one = Observation(time, box)
        if (count < size) ring.add(one) else ring[count % size] = one
        count++
    }

    /** Oldest first. */
    val observations: List<Observation>
        get() {
            val length = minOf(count, size)
            return (0 until length).map { ring[(count - length + it) % size] }
        }

    /** The newest observation that is not newer than [time], else the oldest within reach. */
    fun atOrBefore(time: Double, reach: Int = 16): Box {
        val most = minOf(count, size, reach) - 1
        var steps = 0
        while (steps < most && ring[(count - 1 - steps) % size].time > time) steps++
        return ring[(count - 1 - steps) % size].box
    }
}
