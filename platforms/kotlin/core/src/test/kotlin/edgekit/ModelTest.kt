package edgekit

import java.io.File
import java.nio.file.Files
import java.util.concurrent.atomic.AtomicInteger
import kotlin.math.abs
import kotlin.math.exp
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.async
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import org.junit.Test

/** EdgeModel with an engine of the test's own: states, streams, and what is refused. */
class ModelTest {
    @Test
    fun aFrameGivesDetectionsInItsOwnPixels() = runBlocking {
        open().use { model ->
            val found = model.run(frame(time = 1.5)) as Detections
            assertEquals(listOf(Box(0f, 0f, 32f, 16f)), found.objects.boxes)
            assertTrue(abs(found.objects.scores[0] - 1 / (1 + exp(-2f))) < 1e-6)
            assertEquals(FrameInfo(Size(64, 32), listOf("cat", "dog"), 1.5, found.timings), found.info)
            assertTrue(found.timings.pre > 0 && found.timings.inference > 0 && found.timings.post > 0)
            assertEquals(0, model.run(frame(), Thresholds(score = 0.95)).objects?.count)
            assertEquals("fake", model.placement.engine)
        }
    }

    @Test
    fun aTurnedFrameIsLookedAtUpright() = runBlocking {
        open().use { model ->
            assertEquals(Size(32, 64), model.run(frame(orientation = Orientation.ofDegrees(90))).info.size)
            assertThrows(EdgeKitException.Input::class.java) { Frame(ByteArray(0), 0, 0) }
            assertThrows(EdgeKitException.Input::class.java) { Frame(ByteArray(5), 4, 4) }
            assertThrows(EdgeKitException.Usage::class.java) { Orientation.ofDegrees(45) }
            refused("score must be 0..1, not 2") { model.run(frame(), Thresholds(score = 2.0)) }
            assertEquals(1, model.run(frame()).objects?.count) // still ready
        }
    }

    @Test
    fun aSecondCallWhileItRunsAndAnyAfterCloseAreRefused() = runBlocking {
        val engine = Fake(milliseconds = 300)
        val model = open(engine)
        val first = async { model.run(frame()) }
        until { engine.runs.get() == 1 }
        refused("this model is running") { model.run(frame()) }
        model.close()
        assertEquals(0, engine.closed.get()) // not under what runs
        first.await()
        assertEquals(1, engine.closed.get())
        refused("this model is closed") { model.run(frame()) }
        refused("this model is closed") { model.selfCheck() }
        model.close()
        assertEquals(1, engine.closed.get())
    }

    @Test
    fun aStreamTakesTheNewestFrameCountsTheOthersAndTracks() = runBlocking {
        open(Fake(milliseconds = 25)).use { model ->
            val found = model.results(camera(20, 5), Tracker.byteTrack()).toList()
            val times = found.map { it.info.time!! }
            assertTrue(times.size in 2..19)
            assertEquals(times.sorted().distinct(), times)
            assertEquals(20, times.size + model.dropped)
            assertEquals(setOf(1), found.flatMap { it.objects!!.trackIds!!.asList() }.toSet())
        }
    }

    @Test
    fun aStreamEndsWithItsCollectorAndWithItsCamera() = runBlocking {
        val model = open()
        val seen = AtomicInteger()
        val reader = launch { model.results(camera(100_000, 2)).collect { seen.incrementAndGet() } }
        until { seen.get() > 2 }
        reader.cancel()
        reader.join()
        refused("the camera is gone") { model.results(camera(3, 1, failure = "the camera is gone")).toList() }
        model.results(camera(100_000, 2)).first()
        assertEquals(1, model.run(frame()).objects?.count)
        refused("time of each frame") { model.results(camera(3, 1, hasTime = false), Tracker.sort()).toList() }
        model.close()
        refused("closed") { model.results(camera(3, 1)).toList() }
    }

    @Test
    fun aDetectorAndAPoseModelWorkAsOne() = runBlocking {
        val detector = open()
        val graph = """[{"files": ["model.onnx"], "inputs": [{"name": "images", "shape": [1, 3, 32, 32]}], "outputs": [{"name": "p", "shape": [1, 2, 3]}]}]"""
        val contract = mapOf(
            "task" to "\"pose\"", "classes" to """["cat"]""", "decoder" to """{"name": "keypoints"}""", "skeleton" to """{"names": ["nose", "tail"]}""",
            "outputs" to """[{"name": "p", "role": "predictions"}]""",
        )
        val pose = open(Fake(outputs = listOf(Tensor(floatArrayOf(0.5f, 0.5f, 1f, 1f, 1f, 0.9f), listOf(1, 2, 3)))), mapOf("graphs" to graph), contract)
        val both = TopDown(detector, pose, listOf("cat"))
        val poses = both.run(frame(time = 1.0))
        assertEquals(listOf(Box(0f, 0f, 32f, 16f)), poses.objects.boxes)
        assertEquals(1.0, poses.info.time!!, 0.0)
        // The middle of the input is the middle of the box, its corner that of a part of 40 x 40 pixels.
        assertEquals(listOf(listOf(Keypoint(16f, 8f, 1f), Keypoint(36f, 28f, 0.9f))), poses.keypoints)
        assertTrue(abs(poses.objects.scores[0] - 0.95f / (1 + exp(-2f))) < 1e-6)
        assertEquals(0, TopDown(detector, pose, listOf("dog")).run(frame()).objects.count)
        for (found in both.results(camera(3, 1), Tracker.byteTrack()).toList()) assertEquals(listOf(1), found.objects!!.trackIds!!.asList())
        refused("one of poses, not of the task 'detect'") { TopDown(detector, detector) }
        refused("must find boxes, not be one of the task 'pose'") { TopDown(pose, pose) }
        refused("knows no class 'cow'; it knows cat, dog") { TopDown(detector, pose, listOf("cow")) }
        refused("margin must be at least 1, not 0.5") { TopDown(detector, pose, margin = 0.5) }
        pose.close()
        refused("closed") { both.run(frame()) }
        detector.close()
    }

    @Test
    fun aCancelledCallThrowsAndTheModelStaysReady() = runBlocking {
        val engine = Fake(milliseconds = 60_000)
        val model = open(engine)
        for (run in 1..2) { // the second is let in: the first is over
            val running = async { model.run(frame()) }
            until { engine.runs.get() == run }
            running.cancel()
            val isOver = try {
                running.await()
                false
            } catch (problem: CancellationException) {
                true
            }
            assertTrue(isOver)
        }
        model.close()
        assertEquals(1, engine.closed.get())
    }

    @Test
    fun whatCannotBeRunIsRefusedBeforeAnEngineIsLoaded() = runBlocking {
        val none = emptyMap<String, String>()
        val cases = listOf(
            Triple(mapOf("engine" to "\"litert\""), none, "for the engine litert"),
            Triple(none, mapOf("decoder" to """{"name": "telepathy"}"""), "'telepathy' is not one of: anchor_free"),
            Triple(
                none, mapOf("decoder" to """{"name": "anchor_free", "options": {"strides": [16], "nonsense": 1}}"""),
                "its options are: strides",
            ),
            Triple(none, mapOf("task" to "\"dance\""), "task 'dance' is not one of: classify"),
            Triple(none, mapOf("image" to """{"size": [64, 64]}"""), "makes a float32 input of 64x64"),
            Triple(none, mapOf("task" to "\"pose\""), "names its keypoints"),
            Triple(mapOf("schema" to "2"), none, "reads up to 1"),
            Triple(mapOf("name" to "7"), none, "Expected `str`, got `int` - at `$.name`"),
        )
        for ((changes, contract, text) in cases) {
            val engine = Fake()
            refused(text) { open(engine, changes, contract) }
            assertEquals(0, engine.opened.get())
        }
        refused("no bundle there") { EdgeModel.open(File("/nowhere"), Fake()) }
    }

    @Test
    fun aFlippedByteIsFound() = runBlocking {
        val folder = writeBundle()
        val file = File(folder, "model.onnx")
        file.writeBytes(file.readBytes().also { it[3] = (it[3].toInt() xor 1).toByte() })
        refused("hash differs") { EdgeModel.open(folder, Fake()) }
        assertTrue(folder.deleteRecursively())
    }

    @Test
    fun outputsThatAreNotFiniteAreAnError() = runBlocking {
        open(Fake(logit = Float.NaN)).use { model ->
            refused("NaN or infinite outputs") { model.run(frame()) }
            refused("has no golden frames") { model.selfCheck() }
        }
    }

    @Test
    fun goldenFramesAreReplayed() = runBlocking {
        val row = """{"box": [0, 0, 16, 16], "score": 0.88, "class_id": 0}"""
        for ((rows, said) in listOf(row to emptyList(), "" to listOf("0.png: cat 0.881 at [0, 0, 16, 16] is new"))) {
            val frames = """{"word": "executed", "engine": "fake", "score": 0.25, "iou": 0.45, "frames": [{"image": "0.png",
                "source": {"width": 32, "height": 32, "detections": []},
                "bundle": {"width": 32, "height": 32, "detections": [$rows]},
                "outputs": [{"name": "boxes", "step": 4, "values": [0.5, 0.5, 0.5, 0.5]}]}]}"""
            val picture = File(root, "platforms/kotlin/core/src/test/resources/32x32.png").readBytes()
            val folder = writeBundle(further = mapOf("golden/frames.json" to frames.toByteArray(), "golden/0.png" to picture))
            EdgeModel.open(folder, Fake()).use { model ->
                val record = model.selfCheck()
                assertEquals(said, record.differences)
                assertEquals(said.isEmpty(), record.agreed)
                assertEquals("kotlin", Json.parse(record.json.toByteArray())["platform"].string)
            }
            assertTrue(folder.deleteRecursively())
        }
    }

    @Test
    fun optionsOfTrackersAreChecked() {
        assertThrows(EdgeKitException.Usage::class.java) { ByteTrackOptions(lowScore = 0.9) }
        assertThrows(EdgeKitException.Usage::class.java) { BoTSortOptions(memory = 2.0) }
        assertThrows(EdgeKitException.Usage::class.java) { Tracker.named("deepsort") }
        assertThrows(EdgeKitException.Usage::class.java) { Tracker.named("sort", mapOf("min_score" to true)) }
        assertThrows(EdgeKitException.Usage::class.java) { Tracker.named("sort", mapOf("high_score" to 0.5)) }
    }
}

/** Wait for what other coroutines do. */
private suspend fun until(isSo: () -> Boolean) = withTimeout(20_000) { while (!isSo()) delay(2) }

/** What a call throws has this in its message. */
private suspend fun refused(text: String, work: suspend () -> Unit) {
    val problem = try {
        work()
        null
    } catch (problem: EdgeKitException) {
        problem
    }
    if (problem == null) fail("nothing was thrown, where '$text' was expected")
    assertTrue("$problem", "$problem".contains(text))
}

private fun frame(time: Double? = null, orientation: Orientation = Orientation.UP) =
    Frame(ByteArray(4 * 64 * 32), 64, 32, orientation = orientation, time = time)

/** Frames of 64x32, one after the other. */
private fun camera(count: Int, milliseconds: Long, failure: String? = null, hasTime: Boolean = true): Flow<Frame> = flow {
    for (number in 0 until count) {
        delay(milliseconds)
        emit(frame(if (hasTime) number / 30.0 else null))
    }
    if (failure != null) throw EdgeKitException.Input(failure)
}

/** An engine that finds one cat in the first cell, or gives [outputs]. */
internal class Fake(val milliseconds: Long = 0, val logit: Float = 2f, val outputs: List<Tensor>? = null) : Engine {
    override val opens = listOf("onnxruntime")
    override val target = "onnx"
    val opened = AtomicInteger()
    val runs = AtomicInteger()
    val closed = AtomicInteger()

    override suspend fun open(graph: Graph, bundle: EdgeBundle): Session {
        opened.incrementAndGet()
        return object : Session {
            override val placement = Placement("cpu", "fake", "a test")

            override suspend fun run(input: Tensor): List<Tensor> {
                runs.incrementAndGet()
                delay(milliseconds)
                if (outputs != null) return outputs
                val classes = FloatArray(8) { if (it == 0) logit else -9f }
                return listOf(Tensor(FloatArray(16) { 0.5f }, listOf(1, 4, 2, 2)), Tensor(classes, listOf(1, 2, 2, 2)))
            }

            override fun close() {
                closed.incrementAndGet()
            }
        }
    }
}

private suspend fun open(engine: Fake = Fake(), changes: Map<String, String> = emptyMap(), contract: Map<String, String> = emptyMap()): EdgeModel {
    val folder = writeBundle(changes, contract)
    try {
        return EdgeModel.open(folder, engine)
    } finally {
        folder.deleteRecursively()
    }
}

/** The folder of a small detector: 32 x 32, stride 16, two classes; entries of the manifest and contract as JSON. */
internal fun writeBundle(
    changes: Map<String, String> = emptyMap(), contract: Map<String, String> = emptyMap(), further: Map<String, ByteArray> = emptyMap(),
): File {
    val contents = mapOf("model.onnx" to "a model that only the test's engine can run".toByteArray()) + further
    val files = contents.map { (path, data) -> """{"path": "$path", "bytes": ${data.size}, "sha256": "${sha256(data)}"}""" }
    val manifest = entries(
        """
        {"schema": 1, "edgekit": "0.1.0", "name": "tiny", "target": "onnx", "precision": "fp32", "engine": "onnxruntime",
         "graphs": [{"files": ["model.onnx"], "inputs": [{"name": "images", "shape": [1, 3, 32, 32]}],
                     "outputs": [{"name": "boxes", "shape": [1, 4, 2, 2]}, {"name": "classes", "shape": [1, 2, 2, 2]}]}],
         "origin": {"kind": "torch", "name": "tiny", "sha256": "00"}, "toolchain": {}, "files": [${files.joinToString()}]}
        """,
    ).toMutableMap()
    val rules = entries(
        """
        {"image": {"size": [32, 32]}, "classes": ["cat", "dog"], "decoder": {"name": "anchor_free", "options": {"strides": [16], "reg_max": 1}},
         "outputs": [{"name": "boxes", "role": "boxes"}, {"name": "classes", "role": "classes"}]}
        """,
    )
    manifest["contract"] = Json.Object(rules + contract.mapValues { Json.parse(it.value.toByteArray()) })
    manifest += changes.mapValues { Json.parse(it.value.toByteArray()) }
    manifest["digest"] = Json.Text(ManifestFile.digest(Json.Object(manifest)))
    val folder = Files.createTempDirectory("edgekit").toFile()
    for ((path, data) in contents) File(folder, path).apply { parentFile.mkdirs() }.writeBytes(data)
    File(folder, "manifest.json").writeText(Json.Object(manifest).canonical)
    return folder
}

private fun entries(text: String): Map<String, Json> = (Json.parse(text.toByteArray()) as Json.Object).entries
