package edgekit.onnx

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import edgekit.EdgeBundle
import edgekit.EdgeKitException
import edgekit.Engine
import edgekit.Graph
import edgekit.Placement
import edgekit.Session
import edgekit.Tensor
import edgekit.TensorSpec
import java.nio.FloatBuffer

/** ONNX Runtime by its Java interface, on the processor with so many [threads]. */
class OnnxRuntime(private val threads: Int = 4) : Engine {
    override val opens = listOf("onnxruntime")
    override val target = "onnx"

    override suspend fun open(graph: Graph, bundle: EdgeBundle): Session {
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

private class OnnxSession(private val graph: Graph, private val environment: OrtEnvironment, private val session: OrtSession) : Session {
    override val placement = Placement("cpu", "onnxruntime ${environment.version}", "this engine runs on the processor")

    override suspend fun run(input: Tensor): List<Tensor> = explained(graph, "failed") {
        val spec = graph.inputs[0]
        val given = if (spec.layout == TensorSpec.Layout.NHWC) input.channelsLast() else input
        val shape = LongArray(given.shape.size) { given.shape[it].toLong() }
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(given.data), shape).use { tensor ->
            session.run(mapOf(spec.name to tensor), graph.outputs.map { it.name }.toSet()).use { found ->
                graph.outputs.map { output ->
                    val value = found.get(output.name).orElse(null) as? OnnxTensor
                        ?: throw EdgeKitException.Engine("${graph.name}: the output ${output.name} is no tensor; convert the model again")
                    val raw = tensor(value)
                    if (output.layout == TensorSpec.Layout.NHWC) raw.channelsFirst() else raw
                }
            }
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
