package edgekit.litert

import android.content.Context
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.Environment
import com.google.ai.edge.litert.LiteRtException
import com.google.ai.edge.litert.TensorBuffer
import edgekit.EdgeBundle
import edgekit.EdgeKitException
import edgekit.Engine
import edgekit.Graph
import edgekit.Placement
import edgekit.Session
import edgekit.Tensor
import edgekit.TensorSpec

/**
 * LiteRT's `CompiledModel`: bundles of the target `litert`. It takes the first of [units] (`npu`, `gpu`, `cpu`) that compiles the model and
 * runs it once; the placement says which, and why not those before it. [strict] refuses to fall back.
 */
class LiteRt(
    private val context: Context,
    private val units: List<String> = listOf("npu", "gpu", "cpu"),
    private val strict: Boolean = false,
    private val threads: Int = 4,
) : Engine {
    override val opens = listOf("litert")
    override val target = "litert"

    init {
        val unknown = units - accelerators.keys
        if (units.isEmpty() || unknown.isNotEmpty()) {
            throw EdgeKitException.Usage("units must be some of ${accelerators.keys.joinToString(", ")}, not ${units.joinToString(", ")}")
        }
    }

    override suspend fun open(graph: Graph, bundle: EdgeBundle): Session {
        val path = bundle.file(graph.files[0]).path
        val held = climb(graph.name, units.map { unit -> Rung(unit) { compiled(graph, path, unit) } }, strict)
        return LiteRtSession(graph, held.value, Placement(held.unit, "litert", held.reason))
    }

    /** The model on one accelerator, run once: first runs are slow, and some fail. */
    private fun compiled(graph: Graph, path: String, unit: String): Compiled {
        val options = CompiledModel.Options(accelerators.getValue(unit))
        if (unit == "cpu") options.cpuOptions = CompiledModel.CpuOptions(numThreads = threads)
        val environment = Environment.create(context)
        val compiled = try {
            Compiled(graph, environment, path, options)
        } catch (problem: Exception) {
            environment.close()
            throw problem
        }
        try {
            val outputs = compiled.run(FloatArray(graph.inputs[0].shape.fold(1) { product, side -> product * side.toInt() }))
            if (outputs.any { output -> output.data.any { !it.isFinite() } }) throw EdgeKitException.Engine("NaN or infinite outputs for a black image")
            return compiled
        } catch (problem: Exception) {
            compiled.close()
            throw problem
        }
    }

    private companion object {
        val accelerators = mapOf("npu" to Accelerator.NPU, "gpu" to Accelerator.GPU, "cpu" to Accelerator.CPU)
    }
}

/** A compiled model with its buffers, found by the names of the manifest. */
private class Compiled(private val graph: Graph, private val environment: Environment, path: String, options: CompiledModel.Options) : AutoCloseable {
    private val model: CompiledModel
    private val inputs: Map<String, TensorBuffer>
    private val outputs: Map<String, TensorBuffer>

    init {
        val unknown = (graph.inputs + graph.outputs).firstOrNull { -1L in it.shape }
        if (unknown != null) {
            throw EdgeKitException.Engine("${unknown.name}: a file of several sizes or batches; convert the model for one")
        }
        model = CompiledModel.create(path, options, environment)
        inputs = graph.inputs.associate { it.name to model.createInputBuffer(it.name) }
        outputs = graph.outputs.associate { it.name to model.createOutputBuffer(it.name) }
    }

    /** Outputs in the layout of the file. */
    fun run(input: FloatArray): List<Tensor> {
        inputs.getValue(graph.inputs[0].name).writeFloat(input)
        model.run(inputs, outputs)
        return graph.outputs.map { spec ->
            val (data, shape) = outputs.getValue(spec.name).readFloat() to spec.shape.map { it.toInt() }
            if (data.size != shape.fold(1) { product, side -> product * side }) {
                throw EdgeKitException.Engine("the output ${spec.name} has ${data.size} numbers, and the manifest says $shape; convert the model again")
            }
            Tensor(data, shape)
        }
    }

    override fun close() {
        (inputs.values + outputs.values).forEach { it.close() }
        model.close()
        environment.close()
    }
}

private class LiteRtSession(private val graph: Graph, private val compiled: Compiled, override val placement: Placement) : Session {
    override suspend fun run(input: Tensor): List<Tensor> = try {
        val given = if (graph.inputs[0].layout == TensorSpec.Layout.NHWC) input.channelsLast() else input
        compiled.run(given.data).zip(graph.outputs) { raw, spec -> if (spec.layout == TensorSpec.Layout.NHWC) raw.channelsFirst() else raw }
    } catch (problem: LiteRtException) {
        throw EdgeKitException.Engine("${graph.name}: LiteRT failed on the ${placement.unit}: ${problem.message}; open it with other units", problem)
    }

    override fun close() = compiled.close()
}
