package edgekit.onnx

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import edgekit.EdgeBundle
import edgekit.EdgeKitException
import edgekit.Graph
import edgekit.Network
import edgekit.NetworkEngine
import edgekit.Placement
import edgekit.Session
import edgekit.Tensor
import edgekit.TensorSpec
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer

/** ONNX Runtime by its Java interface, on the processor with so many [threads]: bundles of the targets onnx and web. */
class OnnxRuntime(private val threads: Int = 4) : NetworkEngine {
    override val opens = listOf("onnxruntime", "web")
    override val target = "onnx"

    override suspend fun open(graph: Graph, bundle: EdgeBundle): Session = opened(graph, bundle)

    override suspend fun openNetwork(graph: Graph, bundle: EdgeBundle): Network = opened(graph, bundle)

    private fun opened(graph: Graph, bundle: EdgeBundle): OnnxSession {
        val environment = OrtEnvironment.getEnvironment()
        val session = OrtSession.SessionOptions().use { options ->
            explained(graph, "refuses the file") {
                options.setIntraOpNumThreads(threads)
                environment.createSession(bundle.file(graph.files[0]).path, options)
            }
        }
        val missing = graph.inputs.map { it.name } - session.inputNames + (graph.outputs.map { it.name } - session.outputNames)
        if (missing.isNotEmpty()) {
            session.close()
            throw EdgeKitException.Engine("${graph.name}: the file has no ${missing.joinToString(", ")}; convert the model again")
        }
        return OnnxSession(graph, environment, session)
    }
}

private class OnnxSession(override val graph: Graph, private val environment: OrtEnvironment, private val session: OrtSession) : Session, Network {
    override val placement = Placement("cpu", "onnxruntime ${environment.version}", "this engine runs on the processor")

    override suspend fun run(input: Tensor): List<Tensor> {
        val spec = graph.inputs[0]
        val found = run(mapOf(spec.name to if (spec.layout == TensorSpec.Layout.NHWC) input.channelsLast() else input))
        return graph.outputs.map { output -> found.getValue(output.name).let { if (output.layout == TensorSpec.Layout.NHWC) it.channelsFirst() else it } }
    }

    override suspend fun run(feeds: Map<String, Tensor>): Map<String, Tensor> = explained(graph, "failed") {
        val given = HashMap<String, OnnxTensor>()
        try {
            for (spec in graph.inputs) {
                val tensor = feeds[spec.name]
                    ?: throw EdgeKitException.Engine("graph '${graph.name}' takes '${spec.name}', which this library does not have for it; convert again")
                given[spec.name] = value(tensor, spec)
            }
            session.run(given, graph.outputs.map { it.name }.toSet()).use { found ->
                graph.outputs.associate { output ->
                    val value = found.get(output.name).orElse(null) as? OnnxTensor
                        ?: throw EdgeKitException.Engine("${graph.name}: the output ${output.name} is no tensor; convert the model again")
                    output.name to tensor(value)
                }
            }
        } finally {
            for (value in given.values) value.close()
        }
    }

    /** A tensor of the type that the graph takes. */
    private fun value(tensor: Tensor, spec: TensorSpec): OnnxTensor {
        val (data, shape) = tensor.data to LongArray(tensor.shape.size) { tensor.shape[it].toLong() }
        return when (spec.dtype) {
            "float32" -> OnnxTensor.createTensor(environment, FloatBuffer.wrap(data), shape)
            "int32" -> OnnxTensor.createTensor(environment, IntBuffer.wrap(IntArray(data.size) { data[it].toInt() }), shape)
            "int64" -> OnnxTensor.createTensor(environment, LongBuffer.wrap(LongArray(data.size) { data[it].toLong() }), shape)
            else -> throw EdgeKitException.Engine("input '${spec.name}' is ${spec.dtype}, and this library gives float32, int32 and int64; convert again")
        }
    }

    private fun tensor(value: OnnxTensor): Tensor {
        val numbers = value.floatBuffer
        val data = FloatArray(numbers.remaining())
        numbers.get(data)
        return Tensor(data, value.info.shape.map { it.toInt() })
    }

    override fun close() = session.close()
}

/** What ONNX Runtime throws, with what was done. */
private inline fun <T> explained(graph: Graph, what: String, work: () -> T): T = try {
    work()
} catch (problem: OrtException) {
    throw EdgeKitException.Engine("${graph.name}: ONNX Runtime $what: ${problem.message}; verify the bundle", problem)
}
