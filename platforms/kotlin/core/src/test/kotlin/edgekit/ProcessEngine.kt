package edgekit

import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** ONNX Runtime in a process beside this one: see tests/platform_onnx_process.py. */
internal class ProcessEngine(private val python: String) : Engine {
    override val opens = listOf("onnxruntime")
    override val target = "onnx"

    override suspend fun open(graph: Graph, bundle: EdgeBundle): Session = ProcessSession(
        ProcessBuilder(
            listOf(python, File(root, "tests/platform_onnx_process.py").path, bundle.file(graph.files[0]).path, "1", graph.inputs[0].name) +
                graph.outputs.map { it.name },
        ).redirectError(ProcessBuilder.Redirect.INHERIT).start(),
        graph.outputs.size,
    )
}

private class ProcessSession(private val process: Process, private val outputs: Int) : Session {
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

    override suspend fun run(input: Tensor): List<Tensor> {
        val bytes = buffer(4 + 4 * input.shape.size + 4 * input.data.size)
        bytes.putInt(input.shape.size)
        input.shape.forEach { bytes.putInt(it) }
        input.data.forEach { bytes.putFloat(it) }
        to.write(bytes.array())
        to.flush()
        return List(outputs) {
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
