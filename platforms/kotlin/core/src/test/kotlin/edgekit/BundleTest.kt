package edgekit

import java.io.File
import kotlin.math.abs
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.consumeAsFlow
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test

/**
 * Converted bundles with ONNX Runtime in a process beside this one, against what Python found with the same files: see
 * tests/test_platform_kotlin.py.
 */
class BundleTest {
    private val folder = System.getProperty("edgekit.bundles").orEmpty()

    @Test
    fun resultsTracksAndGoldenFramesArePythons() = runBlocking {
        assumeTrue("EDGEKIT_KOTLIN_BUNDLES names no folder of bundles", folder.isNotEmpty())
        val entries = Json.parse(File(folder, "expected.json").readBytes()).items
        assertTrue(entries.isNotEmpty())
        for (entry in entries) check(entry)
    }

    private suspend fun check(entry: Json) {
        val folder = File(entry["bundle"].string!!)
        EdgeModel.open(folder, ProcessEngine()).use { model ->
            var objects = 0
            for (one in entry["images"].items) {
                val found = model.run(picture(one["image"].string!!))
                same(found, one["result"], "${folder.name} ${one["image"].string}")
                objects += found.objects?.count ?: 1
            }
            assertTrue(objects > 0)
            if (!entry["frames"].isMissing) follow(model, entry["frames"].items, folder)
            var frames = 0
            if (entry["golden"].flag) {
                val record = model.selfCheck()
                assertEquals(emptyList<String>(), record.differences)
                File("${folder.path}-record.json").writeText(record.json)
                frames = record.frames
            }
            println("bundle ${folder.name}: ${entry["images"].items.size} pictures, $frames golden frames, ${model.placement.engine}")
        }
    }

    private suspend fun follow(model: EdgeModel, frames: List<Json>, folder: File) {
        val paths = frames.map { it["image"].string!! }
        val ids = ArrayList<List<Int>>()
        // One frame after the other: the next is given when the result of the last was taken.
        val source = Channel<Frame>(Channel.UNLIMITED)
        source.send(picture(paths[0], 0.0))
        model.results(source.consumeAsFlow(), Tracker.byteTrack(ByteTrackOptions(newScore = 0.3, highScore = 0.25))).collect { found ->
            ids.add(found.objects!!.trackIds!!.asList())
            if (ids.size < paths.size) source.send(picture(paths[ids.size], ids.size / 30.0)) else source.close()
            File("${folder.path}-found.json").writeText(document(found))
        }
        assertEquals("${folder.name}: track ids", frames.map { frame -> frame["track_ids"].flat.map { it.toInt() } }, ids)
    }

    /** What was found, as docs/platforms_picture.py draws it. */
    private fun document(found: EdgeResult): String {
        val objects = found.objects!!
        val columns = mapOf(
            "boxes" to objects.boxes.flatMap { listOf(it.x1, it.y1, it.x2, it.y2) },
            "scores" to objects.scores.asList(),
            "class_ids" to objects.classIds.asList(),
            "track_ids" to objects.trackIds!!.asList(),
            "keypoints" to (found as? Poses)?.keypoints.orEmpty().flatten().flatMap { listOf(it.x, it.y, it.score) },
        )
        // The letters of counts are printable; one of them is a backslash.
        val masks = (found as? Instances)?.masks.orEmpty().map { "\"${it.rle(found.info.size).counts.replace("\\", "\\\\")}\"" }
        return (columns + ("masks" to masks)).entries.joinToString(",", "{", "}") { (name, values) -> "\"$name\":$values" }
    }

    private fun picture(path: String, time: Double? = null): Frame {
        val pixels = Png.read(File(path).readBytes(), path)
        return Frame(pixels.data, pixels.width, pixels.height, Frame.Format.RGB, time = time)
    }

    private fun near(place: String, expected: List<Double>, found: Iterable<Float>, most: Double) =
        assertArrayEquals(place, expected.toDoubleArray(), found.map { it.toDouble() }.toDoubleArray(), most)

    private fun same(found: EdgeResult, expected: Json, place: String) {
        when (found) {
            is Classification -> near(place, expected["scores"].flat, found.scores.asList(), PROBABILITY)
            is Embedding -> near(place, expected["vector"].flat, found.vector.asList(), SCORE)
            is LabelMap -> {
                val labels = expected["class_ids"].flat.zip(expected["lengths"].flat).flatMap { (id, length) -> List(length.toInt()) { id } }
                assertEquals(place, labels.size, found.labels.size)
                val off = labels.indices.count { labels[it] != found.labels[it].toDouble() }
                assertTrue("$place: $off pixels", off <= labels.size / 1000)
            }
            else -> sameObjects(found, expected["detections"].items, place)
        }
    }

    private fun sameObjects(found: EdgeResult, rows: List<Json>, place: String) {
        val objects = found.objects!!
        assertEquals(place, rows.map { it["class_id"].number!!.toInt() }, objects.classIds.asList())
        near(place, rows.map { it["score"].number!! }, objects.scores.asList(), SCORE)
        near(place, rows.flatMap { it["box"].flat }, objects.boxes.flatMap { listOf(it.x1, it.y1, it.x2, it.y2) }, PIXEL)
        when (found) {
            is Poses -> near(place, rows.flatMap { it["keypoints"].flat }, found.keypoints.flatten().flatMap { listOf(it.x, it.y, it.score) }, PIXEL)
            is OrientedBoxes ->
                near(place, rows.flatMap { it["oriented"].flat }, found.oriented.flatMap { listOf(it.x, it.y, it.width, it.height, it.angle) }, PIXEL)
            is Instances -> {
                val off = found.masks.indices.maxOfOrNull { i ->
                    val size = found.info.size
                    val theirs = Rle(size, rows[i]["mask"]["counts"].string!!).mask().bitmap(size)
                    val mine = found.masks[i].bitmap(size)
                    theirs.indices.sumOf { abs(theirs[it] - mine[it]) }
                } ?: 0
                assertTrue("$place: a mask differs in $off pixels", off <= MASK_PIXELS)
            }
            else -> Unit
        }
    }

    private companion object {
        /** A resize may be a grey level off in a few pixels, as the golden set allows. */
        const val PIXEL = 0.05
        const val SCORE = 1e-4
        const val MASK_PIXELS = 4

        /** A softmax makes much of little. */
        const val PROBABILITY = 5e-4
    }
}
