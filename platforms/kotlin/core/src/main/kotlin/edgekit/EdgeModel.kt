package edgekit

import java.io.File
import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.channels.BufferOverflow
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.catch
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.onCompletion
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** A bundle, opened and ready: frame in, result out. It runs one frame at a time; [close] it in the end. */
class EdgeModel private constructor(private val bundle: EdgeBundle, private val session: Session, private val task: TaskReader) : AutoCloseable {
    /** All that the bundle says of itself. */
    val manifest: Manifest get() = bundle.manifest

    /** What runs where, and why. */
    val placement: Placement get() = session.placement

    private val unseen = AtomicInteger()

    /** Frames of streams that came while the model was busy, and were not looked at. */
    val dropped: Int get() = unseen.get()

    private val preprocessor = Preprocessor(bundle.manifest.contract.image)
    private val lock = Any()
    private var isRunning = false
    private var isClosed = false

    /**
     * The result of one frame. It works on another thread than the caller's.
     *
     * Throws [EdgeKitException.Busy]: it is running. [EdgeKitException.Closed]. [EdgeKitException.Usage]: a threshold is out
     * of range. [EdgeKitException.Engine]: the engine failed, or gave NaN or infinite outputs.
     */
    suspend fun run(frame: Frame, thresholds: Thresholds = Thresholds()): EdgeResult = alone {
        val begun = System.nanoTime()
        val (tensor, mapping) = preprocessor.run(frame.upright())
        val ready = System.nanoTime()
        val outputs = session.run(tensor)
        val inferred = System.nanoTime()
        val result = task.result(outputs, mapping, thresholds)
        val timings = Timings((ready - begun) * 1e-6, (inferred - ready) * 1e-6, (System.nanoTime() - inferred) * 1e-6)
        result.withInfo(result.info.copy(time = frame.time, timings = timings))
    }

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

    /**
     * Replay the golden frames of the bundle: the record says whether this device finds what the bundle found when it was
     * converted. As JSON it is what `edgekit evidence add BUNDLE RECORD.json` reads.
     *
     * Throws [EdgeKitException.Usage]: the bundle has none. Otherwise as [run].
     */
    suspend fun selfCheck(): SelfCheck = alone { selfCheck(bundle, task, preprocessor, session) }

    /** Let go of the engine and its memory, after what is running; what is called afterwards throws [EdgeKitException.Closed]. */
    override fun close() {
        val isIdle = synchronized(lock) {
            if (isClosed) return
            isClosed = true
            !isRunning
        }
        if (isIdle) session.close()
    }

    /** Do something while nothing else runs. */
    private suspend fun <T> alone(work: suspend () -> T): T {
        synchronized(lock) {
            if (isClosed) throw EdgeKitException.Closed("this model is closed: open it again with EdgeModel.open(...)")
            if (isRunning) {
                throw EdgeKitException.Busy("this model is running: await its result first, or use results(...), which takes the newest frame")
            }
            isRunning = true
        }
        try {
            return withContext(Dispatchers.Default) { work() }
        } finally {
            val isLast = synchronized(lock) {
                isRunning = false
                isClosed
            }
            if (isLast) session.close()
        }
    }

    companion object {
        /**
         * Open the bundle in a [folder] that `edgekit convert` wrote. All hashes are checked.
         *
         * Throws [EdgeKitException.Bundle]: damaged, altered or too new. [EdgeKitException.Contract]: a task or decoder that
         * this library lacks. [EdgeKitException.Engine]: the engine refuses the file. [EdgeKitException.Usage]: a bundle of
         * another engine.
         */
        suspend fun open(folder: File, engine: Engine): EdgeModel = withContext(Dispatchers.IO) {
            val bundle = EdgeBundle.open(folder)
            val graph = onlyGraph(bundle.manifest, engine)
            val task = openTask(bundle.manifest.contract) // refuses what cannot be decoded before an engine is loaded
            EdgeModel(bundle, engine.open(graph, bundle), task)
        }
    }
}

/** The one graph of a bundle that this library can run. */
private fun onlyGraph(manifest: Manifest, engine: Engine): Graph {
    val (contract, name) = manifest.contract to manifest.name
    if (contract.isLanguage) throw EdgeKitException.Usage("$name is a vision-language model, which this library does not run")
    val graph = manifest.graphs.singleOrNull()
        ?: throw EdgeKitException.Bundle(BundleProblem.INVALID, "$name: ${manifest.graphs.size} graphs; a ${contract.task} model has one")
    val own = graph.engine ?: manifest.engine
    if (own !in engine.opens) {
        val what = "$name is for the engine $own, and this one runs files of ${engine.opens.joinToString(", ")}"
        throw EdgeKitException.Usage("$what; convert the model with --target ${engine.target}")
    }
    val (height, width) = contract.image.height.toLong() to contract.image.width.toLong()
    val input = graph.inputs.singleOrNull()
    val wanted = if (input?.layout == TensorSpec.Layout.NHWC) listOf(1, height, width, 3) else listOf(1, 3, height, width)
    val fits = input != null && input.dtype == "float32" && input.shape.size == 4 &&
        input.shape.zip(wanted).all { (given, side) -> given == side || (manifest.hasVariants && given == -1L) }
    if (!fits) {
        val shapes = graph.inputs.joinToString(" and ") { "${it.dtype} ${it.shape}" }
        val what = "$name: the contract makes a float32 input of ${height}x$width, the graph takes $shapes"
        throw EdgeKitException.Bundle(BundleProblem.INVALID, "$what; convert the model again")
    }
    return graph
}
