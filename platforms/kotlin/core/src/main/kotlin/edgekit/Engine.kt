package edgekit

/** What runs graphs: ONNX Runtime, LiteRT, or what an app brings along. */
interface Engine {
    /** Names of engines in manifests whose files this one opens: `onnxruntime`, `litert`. */
    val opens: List<String>

    /** The target to convert with for this engine, for messages. */
    val target: String

    /**
     * Open the file of a graph. The bundle is verified.
     *
     * Throws [EdgeKitException.Engine]: it refuses the file, or the file lacks an input or output of the manifest.
     */
    suspend fun open(graph: Graph, bundle: EdgeBundle): Session
}

/** One graph, opened. */
interface Session {
    val placement: Placement

    /**
     * Raw outputs, NCHW in the graph's order, for an input tensor (1, 3, height, width). The next frame is written over the
     * tensor: do not keep it.
     *
     * Throws [EdgeKitException.Engine].
     */
    suspend fun run(input: Tensor): List<Tensor>

    /** Let go of the engine's memory. It is called once, when nothing runs. */
    fun close()
}

/** What runs where, and why. */
data class Placement(
    /** `cpu`, `gpu` or `npu`. */
    val unit: String,
    /** The engine with its version. */
    val engine: String,
    val reason: String,
)
