package edgekit

import kotlin.coroutines.coroutineContext
import kotlin.math.pow
import kotlinx.coroutines.ensureActive

// Beam search as transformers 5 does it: the best sequences of a prompt, finished ones kept apart.

/** What is added to the score of what is out of the race. */
private const val OUT = -1e9f

/** A sequence that goes on, or might; [origin] is the beam that it continues. */
private class Beam(val tokens: List<Int>, val score: Float, val origin: Int = 0, val isEnded: Boolean = false)

/** A finished sequence; not [isReal] where there is none yet. */
private class Finished(val tokens: List<Int>, val score: Float, val isReal: Boolean)

/** As [generate], with several beams. */
internal suspend fun beamSearch(graph: LanguageGraph, prompt: Prompt, options: GenerationOptions, stopped: Stopped): List<GeneratedSequence> {
    val first = logitRows(graph.start(prompt.embeddings), 1)[0]
    var logits = List(options.beams) { first }
    // The beams are equal at first: only one may be continued, or all would stay equal.
    var running = List(options.beams) { Beam(emptyList(), if (it == 0) 0f else OUT) }
    var finished = List(options.beams) { Finished(emptyList(), OUT, false) }
    var isImprovable = true
    for (length in 1..options.maxNewTokens) {
        coroutineContext.ensureActive()
        val found = continued(running, logits, length, prompt, options, stopped)
        finished = withEnded(finished, found, isImprovable, length, options)
        val open = found.map { if (it.isEnded) Beam(it.tokens, it.score + OUT, it.origin, true) else it }
        running = open.taking(highest(FloatArray(open.size) { open[it].score }, options.beams))
        isImprovable = isImprovable && mayImprove(running[0].score, finished, length, options)
        if (isFull(finished, options) || !isImprovable || found.all { it.isEnded }) break
        val origins = running.map { it.origin }
        // The graph has one row so far.
        if (length == 1) graph.select(origins.map { 0 }) else if (origins != origins.indices.toList()) graph.select(origins)
        logits = logitRows(graph.step(running.map { it.tokens.last() }), options.beams)
    }
    return finished.take(options.returned).map { GeneratedSequence(it.tokens, it.score) }
}

private fun isFull(finished: List<Finished>, options: GenerationOptions): Boolean =
    options.earlyStopping == GenerationOptions.EarlyStopping.WHEN_FULL && finished.all { it.isReal }

/** The best continuations by one token. More than the beams, so that beams are left when the best of them end. */
private fun continued(running: List<Beam>, logits: List<FloatArray>, length: Int, prompt: Prompt, options: GenerationOptions, stopped: Stopped): List<Beam> {
    val vocabulary = logits[0].size
    val kept = maxOf(2, 1 + prompt.eos.size) * running.size
    if (kept > running.size * vocabulary) {
        val needed = kept / running.size
        throw EdgeKitException.Usage(
            "a beam search with ${prompt.eos.size} end token(s) needs a vocabulary of $needed or more, this one has $vocabulary: take beams=1",
        )
    }
    val sums = FloatArray(running.size * vocabulary)
    running.forEachIndexed { row, beam ->
        val scores = penalised(logProbabilities(logits[row]), prompt.ids + beam.tokens, length - 1, options, prompt.eos)
        for (token in scores.indices) sums[row * vocabulary + token] = scores[token] + beam.score
    }
    return highest(sums, kept).map { place ->
        val (origin, token) = place / vocabulary to place % vocabulary
        val tokens = running[origin].tokens + token
        Beam(tokens, sums[place], origin, token in prompt.eos || length == options.maxNewTokens || stopped(tokens))
    }
}

/** Let what has just ended into the finished ones, where it is better. Only the first may: the others are there to go on. */
private fun withEnded(finished: List<Finished>, found: List<Beam>, isImprovable: Boolean, length: Int, options: GenerationOptions): List<Finished> {
    val isFull = isFull(finished, options)
    val divisor = length.toDouble().pow(options.lengthPenalty).toFloat()
    val merged = finished + found.mapIndexed { place, one ->
        val enters = one.isEnded && place < options.beams
        var score = one.score / divisor
        for (isExcluded in listOf(isFull, !isImprovable, !enters)) if (isExcluded) score += OUT
        Finished(one.tokens, score, enters)
    }
    return merged.taking(highest(FloatArray(merged.size) { merged[it].score }, options.beams))
}

/** Whether the best running beam might end better than the worst finished one; with `NEVER` at any length. */
private fun mayImprove(score: Float, finished: List<Finished>, length: Int, options: GenerationOptions): Boolean {
    val isNever = options.earlyStopping == GenerationOptions.EarlyStopping.NEVER
    val at = if (isNever && options.lengthPenalty > 0) options.maxNewTokens else length
    val least = finished.minOf { it.score }
    val worst = finished.minOf { if (it.isReal) least else OUT }
    return score / at.toDouble().pow(options.lengthPenalty).toFloat() > worst
}
