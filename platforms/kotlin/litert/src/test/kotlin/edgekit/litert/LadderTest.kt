package edgekit.litert

import edgekit.EdgeKitException
import kotlin.coroutines.cancellation.CancellationException
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

/** Which accelerator a model runs on, and why. */
class LadderTest {
    private val tried = ArrayList<String>()

    private fun rung(unit: String, failure: Throwable? = null) = Rung(unit) {
        tried.add(unit)
        if (failure != null) throw failure
        "model on the $unit"
    }

    private fun held(strict: Boolean, vararg rungs: Rung<String>): Held<String> = runBlocking { climb("tiny", rungs.toList(), strict) }

    @Test
    fun theFirstThatRunsIsTaken() {
        val found = held(false, rung("npu"), rung("gpu"), rung("cpu"))
        assertEquals(listOf("npu", "the first choice", "model on the npu"), listOf(found.unit, found.reason, found.value))
        assertEquals(listOf("npu"), tried)
    }

    @Test
    fun everyFallbackHasItsReason() {
        val missing = UnsatisfiedLinkError("libLiteRtDispatch.so not found")
        val found = held(false, rung("npu", missing), rung("gpu", IllegalStateException("op 17 SELECT_V2")), rung("cpu"))
        assertEquals("cpu", found.unit)
        assertEquals("fell back: npu: libLiteRtDispatch.so not found; gpu: op 17 SELECT_V2", found.reason)
        assertEquals(listOf("npu", "gpu", "cpu"), tried)
    }

    @Test
    fun whereNothingRunsAllReasonsAreTold() {
        val problem = assertThrows(EdgeKitException.Engine::class.java) { held(false, rung("gpu", RuntimeException("no OpenCL")), rung("cpu", RuntimeException())) }
        assertEquals("tiny: LiteRT cannot run it (gpu: no OpenCL; cpu: RuntimeException); verify the bundle", problem.message)
    }

    @Test
    fun strictDoesNotFallBack() {
        val problem = assertThrows(EdgeKitException.Engine::class.java) { held(true, rung("npu", RuntimeException("none here")), rung("gpu"), rung("cpu")) }
        assertEquals("tiny: LiteRT cannot run it (npu: none here); leave strict out to fall back to gpu, cpu", problem.message)
        assertEquals(listOf("npu"), tried)
        assertEquals("npu", held(true, rung("npu"), rung("gpu")).unit)
    }

    @Test
    fun whatIsCancelledTriesNothingElse() {
        assertThrows(CancellationException::class.java) { held(false, rung("npu", CancellationException("the screen is gone")), rung("cpu")) }
        assertEquals(listOf("npu"), tried)
    }
}
