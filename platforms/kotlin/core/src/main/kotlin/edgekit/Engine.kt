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

/** An engine that runs graphs of several inputs too, which [VisionLanguage] needs. The module `onnx` has one. */
interface NetworkEngine : Engine {
    /**
     * Open the file of a graph. The bundle is verified.
     *
     * Throws [EdgeKitException.Engine]: it refuses the file, or the file lacks an input or output of the manifest.
     */
    suspend fun openNetwork(graph: Graph, bundle: EdgeBundle): Network
}

/** One graph, opened, whose inputs and outputs go by their names. */
interface Network {
    val graph: Graph
    val placement: Placement

    /**
     * All outputs of the manifest. Inputs of whole numbers are given as floats, which have them exactly up to 16,777,216; what the
     * graph does not take is left aside.
     *
     * Throws [EdgeKitException.Engine]: it failed, or an input is missing.
     */
    suspend fun run(feeds: Map<String, Tensor>): Map<String, Tensor>

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
