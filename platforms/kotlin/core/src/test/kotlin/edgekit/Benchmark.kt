package edgekit

import java.io.File
import java.lang.management.ManagementFactory
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** How long parts of the library take on the inputs of a folder that benchmarks/platforms.py writes: milliseconds as JSON. */
fun main(arguments: Array<String>) {
    val folder = File(arguments[0])
    val plan = Json.parse(File(folder, "plan.json").readBytes())
    val found = LinkedHashMap<String, Double>()
    for (one in plan["tasks"].items) {
        val contract = Contract.read(one["contract"], "")
        val task = openTask(contract)
        val (width, height) = one["size"].flat.map { it.toInt() }
        val mapping = Transform.of(contract.image, width, height)
        val outputs = one["outputs"].items.map { Tensor(floats(File(folder, it["file"].string!!)), it["shape"].flat.map { side -> side.toInt() }) }
        found[one["name"].string!!] = fastest { task.result(outputs, mapping, Thresholds()) }
    }
    val picture = plan["picture"]
    val (width, height) = picture["size"].flat.map { it.toInt() }
    val frame = Frame(File(folder, picture["file"].string!!).readBytes(), width, height, Frame.Format.RGB)
    val preprocessor = Preprocessor(ImageRule.read(picture["rule"], ""))
    found["letterbox"] = fastest { preprocessor.run(frame.upright()) }
    for (one in plan["tracks"].items) {
        val frames = one["frames"].items.map { given ->
            val sides = floats(given["boxes"])
            val boxes = List(sides.size / 4) { Box(sides[4 * it], sides[4 * it + 1], sides[4 * it + 2], sides[4 * it + 3]) }
            boxes to floats(given["scores"])
        }
        for (name in listOf("sort", "bytetrack", "ocsort", "botsort")) found["$name ${one["name"].string}"] = tracked(name, frames)
    }
    println(Json.Object(found.mapValues { Json.Number("${it.value}") }).canonical)
}

/** Milliseconds of a frame; of each frame the fastest turn counts. */
private fun tracked(name: String, frames: List<Pair<List<Box>, FloatArray>>): Double {
    val best = DoubleArray(frames.size) { Double.POSITIVE_INFINITY }
    repeat(TRACKED) {
        val tracker = Tracker.named(name)
        for ((number, frame) in frames.withIndex()) {
            val (boxes, scores) = frame
            val ids = IntArray(boxes.size)
            val begun = now()
            tracker.update(boxes, scores, ids, number / 30.0)
            best[number] = minOf(best[number], now() - begun)
        }
    }
    return best.average()
}

private fun floats(file: File): FloatArray {
    val bytes = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    return FloatArray(bytes.remaining()).also { bytes.get(it) }
}

private fun floats(node: Json): FloatArray = node.flat.let { values -> FloatArray(values.size) { values[it].toFloat() } }

private val thread = ManagementFactory.getThreadMXBean()

/** CPU time of this thread in milliseconds. */
private fun now(): Double = thread.currentThreadCpuTime * 1e-6

/** Milliseconds of the fastest of many turns, the first of which the machine's compiler needs. */
private fun fastest(work: () -> Unit): Double = (0 until TURNS).minOf {
    val begun = now()
    work()
    now() - begun
}

private const val TURNS = 300
private const val TRACKED = 40
