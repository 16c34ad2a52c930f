package edgekit

/** What every tracker can be told. Throws [EdgeKitException.Usage]: a value out of range; likewise the options of each. */
data class TrackerOptions(
    /** Seconds that a track lives on unseen; found again within it, it keeps its id. */
    val lostSeconds: Double = 1.0,
    /** Seconds that a new track must be seen, without a miss, before it is believed and gets an id. */
    val confirmSeconds: Double = 1.0 / 30,
    /** Match a track only with detections of its class. */
    val classAware: Boolean = false,
    /** Observations that `trajectory` remembers of each track. */
    val trajectoryPoints: Int = 128,
    val boxes: Boxes = Boxes.FILTER,
) {
    /**
     * The box of a track in sight: where the filter takes it to be, which is steadier and nearer the truth than a single
     * detection; or the detection's own.
     */
    enum class Boxes { FILTER, DETECTION }

    init {
        inRange("lost_seconds" to lostSeconds, "confirm_seconds" to confirmSeconds, most = Double.POSITIVE_INFINITY)
        if (trajectoryPoints !in 2..100_000) {
            throw EdgeKitException.Usage("option trajectory_points=$trajectoryPoints: expected 2..100000")
        }
    }
}

/** Throws [EdgeKitException.Usage]: one is not finite, below 0 or above [most]. */
internal fun inRange(vararg values: Pair<String, Double>, most: Double = 1.0) {
    for ((name, value) in values) {
        if (!value.isFinite()) throw EdgeKitException.Usage("option $name=$value: expected a finite number")
        if (value < 0) throw EdgeKitException.Usage("option $name=$value: expected at least 0")
        if (value > most) throw EdgeKitException.Usage("option $name=$value: expected at most $most")
    }
}

/** Options by the names of manifests and of Python. What is not asked for is refused by [finish]. */
internal class NamedOptions(private val given: Map<String, Any>) {
    private val names = ArrayList<String>()

    fun number(name: String, or: Double): Double = value(name) ?: or

    fun common(confirmSeconds: Double = 1.0 / 30): TrackerOptions {
        val points = number("trajectory_points", 128.0)
        if (points != Math.rint(points)) throw EdgeKitException.Usage("option trajectory_points=$points: expected a whole number")
        val word = value<String>("boxes") ?: "filter"
        val boxes = TrackerOptions.Boxes.entries.firstOrNull { it.name.lowercase() == word }
            ?: throw EdgeKitException.Usage("option boxes: ${choices(word, listOf("filter", "detection"))}")
        return TrackerOptions(
            number("lost_seconds", 1.0), number("confirm_seconds", confirmSeconds), value<Boolean>("class_aware") ?: false, points.toInt(), boxes,
        )
    }

    /** Refuse any other word than this one. */
    fun only(name: String, word: String) {
        val found = value<String>(name) ?: word
        if (found != word) throw EdgeKitException.Usage("option $name: ${choices(found, listOf(word))}")
    }

    private inline fun <reified T> value(name: String): T? {
        names.add(name)
        val found = given[name] ?: return null
        return found as? T ?: throw EdgeKitException.Usage("option $name=$found: expected a value of another type")
    }

    fun finish() {
        for (name in given.keys.sorted()) if (name !in names) throw EdgeKitException.Usage("option ${choices(name, names)}")
    }
}
