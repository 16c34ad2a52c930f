package edgekit

/** Figures of the last frames, for a display over the camera: medians in milliseconds, and frames a second. */
class Hud {
    private val seen = ArrayDeque<Timings>()
    private val times = ArrayDeque<Double>()

    /** A frame took these [timings]; its result came at so many [seconds] on any clock that runs forward. */
    fun add(timings: Timings, seconds: Double) {
        if (seen.size == FRAMES) seen.removeFirst()
        if (times.size == FRAMES) times.removeFirst()
        seen.add(timings)
        times.add(seconds)
    }

    fun reset() {
        seen.clear()
        times.clear()
    }

    /** Before, in and after the engine; null before the first frame. */
    val prepare: Double? get() = median { it.pre }
    val infer: Double? get() = median { it.inference }
    val decode: Double? get() = median { it.post }

    /** Null for fewer than three frames. */
    val framesPerSecond: Double?
        get() = if (times.size < 3 || times.last() <= times.first()) null else (times.size - 1) / (times.last() - times.first())

    private fun median(part: (Timings) -> Double): Double? = seen.map(part).sorted().getOrNull(seen.size / 2)

    companion object {
        /** How many frames the figures are of. */
        const val FRAMES = 60
    }
}
