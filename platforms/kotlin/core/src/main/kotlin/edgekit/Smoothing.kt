package edgekit

import kotlin.math.PI
import kotlin.math.hypot
import kotlin.math.sqrt

/**
 * The One-Euro filter (Casiez, Roussel, Vogel, CHI 2012) on the keypoints of a video: steady when slow, no lag when fast.
 *
 * Places are low-pass filtered with a cutoff of `cutoff + beta * speed`, the speed in object sizes per second, so that
 * near and far people are smoothed alike.
 *
 * Throws [EdgeKitException.Usage]: a value that is not positive ([beta] may be 0).
 */
class OneEuro(
    /** Hz at rest; lower is steadier. */
    val cutoff: Double = 1.0,
    /** How much the cutoff grows with the speed; higher lags less. */
    val beta: Double = 4.0,
    /** Hz of the filter of the speed; 1 in the paper. */
    val speedCutoff: Double = 1.0,
    /** A track that was away for longer starts anew. */
    val forgetSeconds: Double = 1.0,
) {
    /** The last filtered state of a track: positions in pixels and speeds in pixels/s, x and y by turns. */
    private class Past(val time: Double, val places: DoubleArray, val speeds: DoubleArray)

    private val past = HashMap<Int, Past>()

    init {
        for ((name, value) in listOf("cutoff" to cutoff, "speedCutoff" to speedCutoff, "forgetSeconds" to forgetSeconds)) {
            if (!(value > 0)) throw EdgeKitException.Usage("$name must be positive, not $value")
        }
        if (!(beta >= 0)) throw EdgeKitException.Usage("beta must be 0 or more, not $beta")
    }

    /**
     * The poses of one frame, smoothed; scores stay as they are.
     *
     * Throws [EdgeKitException.Usage]: no track ids or no time.
     */
    fun smooth(poses: Poses): Poses {
        val (ids, time) = poses.objects.trackIds to poses.info.time
        if (ids == null || time == null) {
            throw EdgeKitException.Usage("smoothing needs track ids and the time of the frame; take the results of results(frames, tracker)")
        }
        val smoothed = ids.indices.map { row ->
            val box = poses.objects.boxes[row]
            filter(ids[row], poses.keypoints[row], time, sqrt(maxOf(box.width * box.height, 1f).toDouble()))
        }
        past.values.removeAll { time - it.time > forgetSeconds }
        return Poses(poses.info, poses.objects, smoothed, poses.skeleton)
    }

    private fun filter(id: Int, points: List<Keypoint>, time: Double, size: Double): List<Keypoint> {
        val places = DoubleArray(2 * points.size) { (if (it % 2 == 0) points[it / 2].x else points[it / 2].y).toDouble() }
        val speeds = DoubleArray(places.size)
        val last = past[id]
        past[id] = Past(time, places, speeds)
        if (last == null || time <= last.time || time - last.time > forgetSeconds || last.places.size != places.size) return points
        val passed = time - last.time
        val weight = weight(speedCutoff, passed)
        return points.mapIndexed { k, point ->
            for (i in 2 * k..2 * k + 1) speeds[i] = last.speeds[i] + weight * ((places[i] - last.places[i]) / passed - last.speeds[i])
            val share = weight(cutoff + beta * hypot(speeds[2 * k], speeds[2 * k + 1]) / size, passed)
            for (i in 2 * k..2 * k + 1) places[i] = last.places[i] + share * (places[i] - last.places[i])
            Keypoint(places[2 * k].toFloat(), places[2 * k + 1].toFloat(), point.score)
        }
    }

    /** Weight of a new value in a first-order low-pass filter, after the given seconds. */
    private fun weight(cutoff: Double, passed: Double): Double {
        val step = 2 * PI * cutoff * passed
        return step / (step + 1)
    }
}
