package edgekit

import java.io.File
import kotlin.random.Random
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Damaged input is refused by an error of this library, never by one of the language. */
class HostileTest {
    /** The same numbers in every run. */
    private val dice = Random(1)

    /** A copy with some bytes changed, or cut off. */
    private fun damaged(bytes: ByteArray): ByteArray {
        val bad = bytes.copyOf()
        repeat(dice.nextInt(1, 5)) { bad[dice.nextInt(bad.size)] = dice.nextInt(256).toByte() }
        return if (dice.nextBoolean()) bad else bad.copyOf(dice.nextInt(bad.size + 1))
    }

    /** Anything else than an error of this library fails the test. */
    private fun survives(work: () -> Unit) {
        try {
            work()
        } catch (problem: EdgeKitException) {
            assertTrue(problem.message!!.isNotEmpty())
        }
    }

    @Test
    fun manifests() {
        val good = File(root, "golden/manifest/good-full").walk().first { it.name == "manifest.json" }.readBytes()
        ManifestFile.decode(good, "good")
        repeat(300) {
            val bad = damaged(good)
            if (!bad.contentEquals(good)) assertThrows(EdgeKitException.Bundle::class.java) { ManifestFile.decode(bad, "bad") }
        }
    }

    @Test
    fun pictures() {
        val good = File(root, "golden/preprocess/letterbox-37x53/image.png").readBytes()
        val picture = Png.read(good, "good")
        assertEquals(3 * picture.width * picture.height, picture.data.size)
        repeat(1000) { survives { Png.read(damaged(good), "bad") } }
    }

    @Test
    fun masks() {
        repeat(2000) {
            val counts = String(CharArray(dice.nextInt(31)) { dice.nextInt(40, 121).toChar() })
            survives { Rle(Size(5, 7), counts).mask() }
        }
        assertThrows(EdgeKitException.Input::class.java) { Rle(Size(Int.MAX_VALUE, 2), "0").mask() }
    }

    @Test
    fun filesOfOtherFormats() {
        repeat(500) {
            val bytes = "location".toByteArray() + dice.nextBytes(200)
            try {
                OnnxFile.named(bytes)
            } catch (problem: OnnxFile.Broken) {
                assertTrue(problem.message!!.isNotEmpty())
            }
        }
    }

    /** Outputs of every shape with a few dimensions, for every contract of the golden set. */
    @Test
    fun outputs() {
        val sizes = listOf(0, 1, 2, 3, 4, 5, 8, 17)
        var tried = 0
        for (one in Case.stored("decode")) {
            val contract = Contract.read(one.given["contract"], "")
            val task = try {
                openTask(contract)
            } catch (problem: EdgeKitException) {
                continue
            }
            val mapping = Transform.of(contract.image, 33, 21)
            repeat(10) {
                val outputs = contract.outputs.map {
                    val shape = List(dice.nextInt(5)) { sizes.random(dice) }
                    Tensor(FloatArray(shape.fold(1) { product, side -> product * side }) { 3f }, shape)
                }
                survives { task.result(outputs, mapping, Thresholds(score = -0.5)) }
                tried++
            }
        }
        assertTrue(tried > 500)
    }
}
