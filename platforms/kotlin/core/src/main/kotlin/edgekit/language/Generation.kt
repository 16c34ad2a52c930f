package edgekit

import kotlin.coroutines.coroutineContext
import kotlin.math.pow
import kotlin.random.Random
import kotlinx.coroutines.ensureActive

/** A language model with its cache: rows of tokens that are grown together. */
internal interface LanguageGraph {
    /** Read a prompt (1, tokens, width), dropping what was there; logits (1, vocabulary) of the next token. */
    suspend fun start(embeddings: Tensor): Tensor

    /** Append a token to every row; logits (rows, vocabulary). */
    suspend fun step(tokens: List<Int>): Tensor

    /** Continue with these rows, in this order; they may be repeated and left out. */
    fun select(rows: List<Int>)
}

/** One prompt. */
internal class Prompt(
    /** (1, tokens, width), what the graph reads. */
    val embeddings: Tensor,
    /** What the penalties read: the ids behind the embeddings, or the token that a decoder starts with. */
    val ids: List<Int>,
    /** Tokens that end a sequence. */
    val eos: List<Int>,
    /** What finished rows go on with. */
    val pad: Int,
)

/** Tokens without the prompt, an end token included, and the sum of their log-probabilities by `length ** lengthPenalty`. */
internal class GeneratedSequence(val tokens: List<Int>, val score: Float)

/** Whether a sequence ends here for a reason of the caller's. */
internal typealias Stopped = (List<Int>) -> Boolean

/**
 * As many sequences as [GenerationOptions.returned], the best first while searching with beams.
 *
 * Throws [EdgeKitException.Engine]: the graph failed, or gave something unusable. [EdgeKitException.Usage]: no token is left to draw.
 */
internal suspend fun generate(graph: LanguageGraph, prompt: Prompt, options: GenerationOptions, stopped: Stopped = { false }): List<GeneratedSequence> {
    if (options.beams > 1) return beamSearch(graph, prompt, options, stopped)
    val steps = Stepwise(graph, prompt, options, stopped)
    val sums = DoubleArray(options.returned)
    while (true) {
        val step = steps.next() ?: break
        step.forEachIndexed { row, one -> sums[row] += one?.logProbability?.toDouble() ?: 0.0 }
    }
    return steps.made.mapIndexed { row, tokens -> GeneratedSequence(tokens, (sums[row] / tokens.size.toDouble().pow(options.lengthPenalty)).toFloat()) }
}

/** Token after token, each chosen for good: what greedy decoding, sampling and streams share. */
internal class Stepwise(private val graph: LanguageGraph, private val prompt: Prompt, private val options: GenerationOptions, private val stopped: Stopped = { false }) {
    class Chosen(val token: Int, val logProbability: Float)

    /** What was generated so far, of each row. */
    val made: List<MutableList<Int>> = List(options.returned) { ArrayList() }
    private val numbers = (options.seed ?: Random.nextLong()).let { seed -> List(options.returned) { Uniform(seed, it) } }
    private val isAlive = BooleanArray(options.returned) { true }
    private var last = emptyList<Int>()

    /** One token of each row, null where it has ended; null after the last. */
    suspend fun next(): List<Chosen?>? {
        coroutineContext.ensureActive()
        val step = (logits() ?: return null).mapIndexed { row, own -> if (isAlive[row]) chosen(row, own) else null }
        last = step.map { it?.token ?: prompt.pad }
        return step
    }

    private fun chosen(row: Int, logits: FloatArray): Chosen {
        val scores = penalised(logits, prompt.ids + made[row], made[row].size, options, prompt.eos)
        val token = if (options.sample) drawn(chances(scores, options), numbers[row].next()) else highest(scores, 1)[0]
        made[row].add(token)
        if (token in prompt.eos || stopped(made[row])) isAlive[row] = false
        return Chosen(token, logProbabilities(logits)[token])
    }

    private suspend fun logits(): List<FloatArray>? {
        val length = made.maxOf { it.size }
        if (length == 0) return logitRows(graph.start(prompt.embeddings), 1)[0].let { first -> List(options.returned) { first } }
        if (length == options.maxNewTokens || isAlive.none { it }) return null
        if (length == 1 && options.returned > 1) graph.select(List(options.returned) { 0 })
        return logitRows(graph.step(last), options.returned)
    }
}
