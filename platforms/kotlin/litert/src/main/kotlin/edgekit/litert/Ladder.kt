package edgekit.litert

import edgekit.EdgeKitException
import kotlin.coroutines.cancellation.CancellationException

/** One way to run a model: the [unit] that it runs on (`npu`, `gpu`, `cpu`), and how it is opened and tried. */
internal class Rung<T>(val unit: String, val open: suspend () -> T)

/** Where a ladder held, and why not further up. */
internal class Held<T>(val unit: String, val value: T, val reason: String)

/**
 * The first rung that opens, from the top. Opening includes a first run: accelerators that compile a model and then fail,
 * or give what is not finite, are found there and not in the middle of a stream.
 *
 * [strict] refuses what the first rung would fall back to. Work that is cancelled stays cancelled.
 *
 * Throws [EdgeKitException.Engine] with the reason of every rung.
 */
internal suspend fun <T> climb(name: String, rungs: List<Rung<T>>, strict: Boolean): Held<T> {
    val failures = ArrayList<String>()
    for (rung in if (strict) rungs.take(1) else rungs) {
        try {
            val value = rung.open()
            return Held(rung.unit, value, if (failures.isEmpty()) "the first choice" else "fell back: ${failures.joinToString("; ")}")
        } catch (cancelled: CancellationException) {
            throw cancelled
        } catch (problem: Exception) {
            failures.add("${rung.unit}: ${problem.message ?: problem.javaClass.simpleName}")
        } catch (missing: LinkageError) { // a library of an accelerator that the app does not have
            failures.add("${rung.unit}: ${missing.message ?: missing.javaClass.simpleName}")
        }
    }
    val advice = if (strict && rungs.size > 1) "leave strict out to fall back to ${rungs.drop(1).joinToString(", ") { it.unit }}" else "verify the bundle"
    throw EdgeKitException.Engine("$name: LiteRT cannot run it (${failures.joinToString("; ")}); $advice")
}
