package edgekit

import java.io.File
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext

/** A bundle, opened and ready: frame in, result out. It runs one frame at a time; [close] it in the end. */
class EdgeModel private constructor(private val bundle: EdgeBundle, private val session: Session, private val task: TaskReader) : Streaming(), AutoCloseable {
    /** All that the bundle says of itself. */
    val manifest: Manifest get() = bundle.manifest

    /** What runs where, and why. */
    val placement: Placement get() = session.placement

    private val preprocessor = Preprocessor(bundle.manifest.contract.image)
    private val turn = Turn(
        busy = "this model is running: await its result first, or use results(...), which takes the newest frame",
        closed = "this model is closed: open it again with EdgeModel.open(...)",
        release = session::close,
    )

    /**
     * The result of one frame. It works on another thread than the caller's.
     *
     * Throws [EdgeKitException.Busy]: it is running. [EdgeKitException.Closed]. [EdgeKitException.Usage]: a threshold is out
     * of range. [EdgeKitException.Engine]: the engine failed, or gave NaN or infinite outputs.
     */
    override suspend fun run(frame: Frame, thresholds: Thresholds): EdgeResult = alone {
        val begun = System.nanoTime()
        val (tensor, mapping) = preprocessor.run(frame.upright())
        val ready = System.nanoTime()
        val outputs = session.run(tensor)
        val inferred = System.nanoTime()
        val result = task.result(outputs, mapping, thresholds)
        val timings = Timings((ready - begun) * 1e-6, (inferred - ready) * 1e-6, (System.nanoTime() - inferred) * 1e-6)
        result.withInfo(result.info.copy(time = frame.time, timings = timings))
    }

    /** The best pose in each of these boxes of an upright image, whatever its score, and milliseconds in the engine; see [TopDown]. */
    internal suspend fun posesIn(image: Pixels, boxes: List<Box>, margin: Double): Pair<List<List<Keypoint>>, Double> =
        alone { posesIn(image, boxes, margin, task, preprocessor) { session.run(it) } }

    /**
     * Replay the golden frames of the bundle: the record says whether this device finds what the bundle found when it was
     * converted. As JSON it is what `edgekit evidence add BUNDLE RECORD.json` reads.
     *
     * Throws [EdgeKitException.Usage]: the bundle has none. Otherwise as [run].
     */
    suspend fun selfCheck(): SelfCheck = alone { selfCheck(bundle, task, preprocessor, session) }

    /** Let go of the engine and its memory, after what is running; what is called afterwards throws [EdgeKitException.Closed]. */
    override fun close() = turn.close()

    private suspend fun <T> alone(work: suspend () -> T): T = turn.alone { withContext(Dispatchers.Default) { work() } }

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
    if (contract.language != null) throw EdgeKitException.Usage("$name is a vision-language model; open it with VisionLanguage.open(...)")
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
