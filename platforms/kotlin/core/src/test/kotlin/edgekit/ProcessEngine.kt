package edgekit

import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** ONNX Runtime in a process beside this one: see tests/platform_onnx_process.py. */
internal class ProcessEngine(private val python: String = System.getenv("EDGEKIT_PYTHON") ?: "python3") : NetworkEngine {
    override val opens = listOf("onnxruntime", "web")
    override val target = "onnx"

    override suspend fun open(graph: Graph, bundle: EdgeBundle): Session = opened(graph, bundle)

    override suspend fun openNetwork(graph: Graph, bundle: EdgeBundle): Network = opened(graph, bundle)

    private fun opened(graph: Graph, bundle: EdgeBundle): ProcessSession {
        val inputs = graph.inputs.joinToString(",") { it.name }
        val command = listOf(python, File(root, "tests/platform_onnx_process.py").path, bundle.file(graph.files[0]).path, "1", inputs)
        return ProcessSession(ProcessBuilder(command + graph.outputs.map { it.name }).redirectError(ProcessBuilder.Redirect.INHERIT).start(), graph)
    }
}

private class ProcessSession(private val process: Process, override val graph: Graph) : Session, Network {
    private val to = DataOutputStream(process.outputStream.buffered())
    private val from = DataInputStream(process.inputStream.buffered())

    override val placement = Placement("cpu", version(), "the only one")

    private fun version(): String {
        val text = StringBuilder()
        while (true) {
            val letter = from.read()
            if (letter < 0) throw EdgeKitException.Engine("the process of the engine ended")
            if (letter == '\n'.code) return text.toString()
            text.append(letter.toChar())
        }
    }

    override suspend fun run(input: Tensor): List<Tensor> = answers(listOf(input))

    override suspend fun run(feeds: Map<String, Tensor>): Map<String, Tensor> {
        val given = graph.inputs.map { feeds[it.name] ?: throw EdgeKitException.Engine("graph '${graph.name}' takes '${it.name}'") }
        return graph.outputs.map { it.name }.zip(answers(given)).toMap()
    }

    private fun answers(given: List<Tensor>): List<Tensor> {
        for (tensor in given) {
            val bytes = buffer(4 + 4 * tensor.shape.size + 4 * tensor.data.size)
            bytes.putInt(tensor.shape.size)
            tensor.shape.forEach { bytes.putInt(it) }
            tensor.data.forEach { bytes.putFloat(it) }
            to.write(bytes.array())
        }
        to.flush()
        return List(graph.outputs.size) {
            val shape = List(read(4).getInt(0)) { read(4).getInt(0) }
            val count = shape.fold(1) { product, side -> product * side }
            val data = read(4 * count)
            Tensor(FloatArray(count) { data.getFloat(4 * it) }, shape)
        }
    }

    private fun buffer(size: Int): ByteBuffer = ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN)

    private fun read(size: Int): ByteBuffer = buffer(size).also { from.readFully(it.array()) }

    override fun close() {
        to.close()
        process.waitFor()
    }
}
