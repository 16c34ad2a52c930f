package edgekit

import java.io.File
import kotlin.math.PI
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** What an app shows of results, and what it writes. */
class AppTest {
    private val info = FrameInfo(Size(100, 50), listOf("cat", "dog"))

    private fun objects(vararg scores: Float, classIds: IntArray = IntArray(scores.size) { it % 2 }, trackIds: IntArray? = null) =
        Objects(List(scores.size) { Box(10f * it, 5f, 10f * it + 8, 25f) }, scores, classIds, trackIds)

    @Test
    fun figuresAreMediansOfTheLastFrames() {
        val hud = Hud()
        assertNull(hud.prepare)
        assertNull(hud.framesPerSecond)
        for (number in 0 until 200) hud.add(Timings((if (number < 140) 1000.0 else 0.0) + number % 3, 7.0, 0.5), number / 20.0)
        assertEquals(listOf(1.0, 7.0, 0.5), listOf(hud.prepare, hud.infer, hud.decode))
        assertEquals(20.0, hud.framesPerSecond!!, 1e-9)
        hud.reset()
        assertNull(hud.infer)
    }

    @Test
    fun aFrameIsShownWholeInTheMiddle() {
        val tall = Fitting(Size(100, 50), 300.0, 400.0)
        assertEquals(listOf(3.0, 0.0, 125.0), listOf(tall.scale, tall.left, tall.top))
        assertEquals(150f to 200f, tall.x(50f) to tall.y(25f))
        val wide = Fitting(Size(100, 50), 300.0, 100.0)
        assertEquals(listOf(2.0, 50.0, 0.0), listOf(wide.scale, wide.left, wide.top))
        assertEquals(0.0, Fitting(Size(0, 0), 10.0, 10.0).scale, 0.0)
    }

    @Test
    fun objectsBelowTheScoreAreNeitherDrawnNorListed() {
        val result = Detections(info, objects(0.9f, 0.5f, 0.3f))
        val overlay = Overlay.of(result, 0.5)
        assertEquals(listOf("cat", "dog"), overlay.items.map { it.caption })
        assertEquals(listOf(10f to 5f, 18f to 5f, 18f to 25f, 10f to 25f), overlay.items[1].outline.map { it.x to it.y })
        assertEquals(listOf("0.90", "0.50"), result.lines(0.5).map { it.figure })
        assertEquals("3 found: 2 cat, 1 dog.", result.sentence(0.2))
        assertEquals("Nothing found: try a lower least score.", result.sentence(0.95))
        assertNotEquals(overlay.items[0].colour, overlay.items[1].colour)
    }

    @Test
    fun aTrackKeepsItsNumberAndColour() {
        fun first(classId: Int) = Overlay.of(Detections(info, objects(0.9f, classIds = intArrayOf(classId), trackIds = intArrayOf(7))), 0.0).items[0]
        assertEquals(listOf("cat #7", "dog #7", "class 9 #7"), listOf(first(0), first(1), first(9)).map { it.caption })
        assertEquals(first(0).colour, first(1).colour)
        // hsl(168 85% 58%) of the web app.
        assertEquals(0xff39efcb.toInt(), colourOf(0))
    }

    @Test
    fun skeletonsLeaveOutWhatIsUnsure() {
        val skeleton = Skeleton(listOf("a", "b", "c"), listOf(listOf(0, 1), listOf(1, 2)))
        val points = listOf(Keypoint(1f, 2f, 0.9f), Keypoint(3f, 4f, 0.31f), Keypoint(5f, 6f, 0.1f))
        val item = Overlay.of(Poses(info, objects(0.9f), listOf(points), skeleton), 0.0).items[0]
        assertEquals(listOf(Overlay.Point(1f, 2f), Overlay.Point(3f, 4f)), item.keypoints)
        assertEquals(listOf(Overlay.Point(3f, 4f)), item.bones.map { it.second })
    }

    @Test
    fun masksLabelMapsAndTurnedBoxesAreDrawnWhereTheyAre() {
        val instances = Instances(info, objects(0.9f), listOf(Mask(4, 6, 2, 1, byteArrayOf(0, 1))))
        val mask = Overlay.of(instances, 0.0).bitmaps[0]
        assertEquals(listOf(4, 6, 0, 128), listOf(mask.left, mask.top, mask.pixels[0], mask.pixels[1] ushr 24))
        assertTrue(Overlay.of(instances, 1.0).bitmaps.isEmpty())
        val map = LabelMap(FrameInfo(Size(3, 1), listOf("__background__", "road")), shortArrayOf(0, 1, 1))
        val whole = Overlay.of(map, 0.0).bitmaps[0]
        assertEquals(listOf(0, 153, 153), whole.pixels.map { it ushr 24 })
        assertEquals("Found: road 66.7 %, __background__ 33.3 %.", map.sentence(0.0))
        val oriented = OrientedBoxes(info, objects(0.9f), listOf(OrientedBox(50f, 25f, 20f, 10f, (PI / 2).toFloat())))
        val wanted = listOf(55f to 15f, 55f to 35f, 45f to 35f, 45f to 15f)
        for ((found, point) in Overlay.of(oriented, 0.0).items[0].outline.zip(wanted)) {
            assertEquals(point.first, found.x, 1e-4f)
            assertEquals(point.second, found.y, 1e-4f)
        }
    }

    @Test
    fun classesAreListedByScore() {
        val found = Classification(info, floatArrayOf(0.2f, 0.8f), false, 0.5)
        assertEquals(listOf("dog 80.0 %", "cat 20.0 %"), found.lines(0.9).map { "${it.name} ${it.figure}" })
        assertTrue(Overlay.of(found, 0.0).items.isEmpty())
        assertEquals("Found: vector 2 numbers.", Embedding(info, floatArrayOf(1f, 0f)).sentence(0.0))
    }

    @Test
    fun problemsHaveATitleAndSayWhatToDo() {
        assertEquals("A file of the model is damaged", Problem.of(EdgeKitException.Bundle(BundleProblem.HASH_DIFFERS, "x")).title)
        assertEquals("This model needs a newer edgekit", Problem.of(EdgeKitException.Bundle(BundleProblem.NEWER_SCHEMA, "x")).title)
        assertEquals("The camera cannot be used", Problem.of(EdgeKitException.Input("the camera is not allowed; allow it")).title)
        assertEquals(Problem("This picture cannot be used", "not a picture"), Problem.of(EdgeKitException.Input("not a picture")))
        assertEquals(Problem("Something went wrong", "IllegalStateException"), Problem.of(IllegalStateException()))
    }

    @Test
    fun aBenchmarkHasEverySampleOfModelsThatItOpensAndCloses() = runBlocking {
        val folder = writeBundle()
        val engine = Fake(milliseconds = 1)
        val told = ArrayList<Int>()
        val frame = Frame(ByteArray(3 * 64 * 32), 64, 32, Frame.Format.RGB)
        val device = Device("Google Pixel 10", "Android 16", 8, 12L shl 30)
        val found = Benchmark.run(frame, device, Benchmark.Length(seconds = 0.05, calls = 12..400), { "none" }, { told.add(it) }) {
            EdgeModel.open(folder, engine)
        }
        assertEquals(listOf(1, 2, 3), told)
        assertEquals(3 to 3, engine.opened.get() to engine.closed.get())
        for (round in found.rounds) {
            assertTrue(round.total.size >= 12 && round.pre.size == round.total.size && round.post.size == round.total.size)
            assertTrue(round.open > 0 && round.first >= 1)
            assertTrue(round.total.zip(round.inference).all { (total, inference) -> total >= inference && inference >= 1 })
        }
        val record = Json.parse(found.json.toByteArray())
        assertEquals("tiny", record["bundle"]["name"].string)
        assertEquals(found.json, found.json)
        // For edgekit profile import, where a test of edgekit gave a folder.
        System.getProperty("edgekit.bundles").orEmpty().takeIf { it.isNotEmpty() }?.let { File(it, "app-benchmark.json").writeText(found.json) }
        assertThrows(EdgeKitException.Engine::class.java) {
            runBlocking { Benchmark.run(frame, device) { EdgeModel.open(folder, Fake(logit = Float.NaN)) } }
        }
        assertTrue(folder.deleteRecursively())
    }

    @Test
    fun aSelfCheckIsToldInASentence() {
        fun check(compared: String, vararg differences: String) = SelfCheck("b", "f", "t", "m", "e", 2, compared, differences.toList()).sentence
        assertEquals("All 2 golden frames agree with what it found when it was converted.", check("bundle"))
        assertEquals("The golden frames do not agree with what its source found: a; b; c.", check("source", "a", "b", "c", "d"))
    }
}
