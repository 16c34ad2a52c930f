package edgekit

import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.channels.BufferOverflow
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.catch
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.onCompletion
import kotlinx.coroutines.launch

/** What runs on single frames, and on streams of them: always on the newest. */
abstract class Streaming internal constructor() {
    private val unseen = AtomicInteger()

    /** Frames of streams that came while the model was busy, and were not looked at. */
    val dropped: Int get() = unseen.get()

    /** The result of one frame. */
    abstract suspend fun run(frame: Frame, thresholds: Thresholds = Thresholds()): EdgeResult

    /**
     * Results of frames as they come: always of the newest frame, the others are [dropped].
     *
     * The flow ends with its frames and with who collects it. With a tracker, the model finds from the tracker's least score
     * on, and results are the tracks in sight, with `trackIds`: plain boxes are the tracks', inside the frame; those around
     * keypoints and masks stay as found. Frames then need a `time`.
     *
     * It throws what its frames throw, and otherwise as [run].
     */
    fun results(frames: Flow<Frame>, tracker: Tracker? = null, thresholds: Thresholds = Thresholds()): Flow<EdgeResult> = flow {
        val wanted = thresholds.copy(score = thresholds.score ?: tracker?.leastScore)
        coroutineScope {
            val newest = Channel<Frame>(1, BufferOverflow.DROP_OLDEST) { unseen.incrementAndGet() }
            // What goes wrong with the frames is thrown where they are taken.
            val pump = launch { frames.onCompletion { newest.close(it) }.catch { }.collect { newest.send(it) } }
            for (frame in newest) {
                val found = run(frame, wanted)
                emit(if (tracker == null) found else followed(found, frame, tracker))
            }
            pump.cancel()
        }
    }

    /** The tracks in sight as a result: the detections of theirs, with track ids. */
    private fun followed(found: EdgeResult, frame: Frame, tracker: Tracker): EdgeResult {
        val time = frame.time ?: throw EdgeKitException.Usage("tracking needs the time of each frame; make it with Frame(..., time = seconds)")
        val seen = tracker.update(found, time).visible
        val rows = seen.mapNotNull { it.detection }.toIntArray()
        val picked = found.picked(rows, seen.map { it.id }.toIntArray())
        if (picked !is Detections) return picked
        val (size, objects) = found.info.size to picked.objects
        return Detections(picked.info, Objects(seen.map { it.box.clipped(size) }, objects.scores, objects.classIds, objects.trackIds))
    }
}
