package edgekit

import kotlin.math.exp
import kotlin.math.ln

/**
 * Rows of logits that a language graph returned.
 *
 * Throws [EdgeKitException.Engine]: not one row for each sequence, or a row that is no distribution.
 */
internal fun logitRows(logits: Tensor, rows: Int): List<FloatArray> {
    if (logits.shape.size != 2 || logits.shape[0] != rows || logits.shape[1] < 1) {
        throw EdgeKitException.Engine("the language graph gave logits of shape ${logits.shown}, not ($rows, vocabulary): check its outputs")
    }
    val vocabulary = logits.shape[1]
    return List(rows) { row ->
        val found = logits.data.copyOfRange(row * vocabulary, (row + 1) * vocabulary)
        val peak = found.max() // NaN where one is
        if (!peak.isFinite()) {
            throw EdgeKitException.Engine(
                "the language graph gave $peak as its highest logit in row $row: its numbers overflowed; convert it with a wider precision",
            )
        }
        found
    }
}

private inline fun sum(values: FloatArray, of: (Float) -> Float = { it }): Double {
    var sum = 0.0
    for (value in values) sum += of(value)
    return sum
}

/** Logarithm of the softmax. */
internal fun logProbabilities(logits: FloatArray): FloatArray {
    val peak = logits.max()
    val total = ln(sum(logits) { exp(it - peak) }.toFloat())
    return FloatArray(logits.size) { logits[it] - peak - total }
}

/** Softmax; -infinity is probability 0. */
internal fun probabilities(scores: FloatArray): FloatArray {
    val peak = scores.max()
    val weights = FloatArray(scores.size) { exp(scores[it] - peak) }
    val total = sum(weights).toFloat()
    return FloatArray(scores.size) { weights[it] / total }
}

/** Places of the highest numbers, the highest first; of equal ones the first. */
internal fun highest(values: FloatArray, count: Int): IntArray {
    val found = IntArray(minOf(count, values.size))
    var size = 0
    for (place in values.indices) {
        val value = values[place]
        if (size == found.size && !(value > values[found[size - 1]])) continue
        var at = minOf(size, found.size - 1)
        while (at > 0 && value > values[found[at - 1]]) found[at] = found[--at]
        found[at] = place
        if (size < found.size) size++
    }
    return found
}

/**
 * Penalties and bans before a token is chosen; order and meaning are those of transformers. [history] is the prompt and what
 * was generated; ids outside of the vocabulary count for nothing.
 */
internal fun penalised(scores: FloatArray, history: List<Int>, made: Int, options: GenerationOptions, eos: List<Int>): FloatArray {
    val changed = scores.copyOf()
    if (options.repetitionPenalty != 1.0) {
        val penalty = options.repetitionPenalty.toFloat()
        for (token in history.toSet()) {
            if (token < scores.size) changed[token] = if (scores[token] < 0) scores[token] * penalty else scores[token] / penalty
        }
    }
    val size = options.noRepeatNgramSize
    if (size > 0 && history.size >= size) {
        val begun = history.takeLast(size - 1)
        for (place in 0..history.size - size) {
            val last = history[place + size - 1]
            if (last < changed.size && history.subList(place, place + size - 1) == begun) changed[last] = Float.NEGATIVE_INFINITY
        }
    }
    if (made < options.minNewTokens) for (token in eos) if (token < changed.size) changed[token] = Float.NEGATIVE_INFINITY
    return changed
}

/**
 * Probabilities of what sampling draws from: temperature, then top-k, top-p and min-p, each on what the last one left.
 *
 * Throws [EdgeKitException.Usage]: the penalties left no token at all.
 */
internal fun chances(scores: FloatArray, options: GenerationOptions): FloatArray {
    if (scores.none { it > Float.NEGATIVE_INFINITY }) {
        val what = "noRepeatNgramSize=${options.noRepeatNgramSize} and minNewTokens=${options.minNewTokens}"
        throw EdgeKitException.Usage("no token is left to draw: $what ban all of them; loosen them")
    }
    val temperature = options.temperature.toFloat()
    val kept = if (temperature == 1f) scores.copyOf() else FloatArray(scores.size) { scores[it] / temperature }
    if (options.topK > 0) {
        val lowest = kept[highest(kept, options.topK).last()]
        for (token in kept.indices) if (kept[token] < lowest) kept[token] = Float.NEGATIVE_INFINITY
    }
    if (options.topP < 1) keepLikeliest(kept, options.topP)
    if (options.minP > 0) {
        val likely = probabilities(kept)
        val least = options.minP.toFloat() * likely.max()
        for (token in kept.indices) if (likely[token] < least) kept[token] = Float.NEGATIVE_INFINITY
    }
    return probabilities(kept)
}

/** Keep the fewest likeliest tokens whose probabilities make up the share, at least one. */
private fun keepLikeliest(kept: FloatArray, share: Double) {
    val order = kept.indices.sortedWith { a, b -> if (kept[a] != kept[b]) kept[a].compareTo(kept[b]) else a - b }
    val rising = probabilities(FloatArray(order.size) { kept[order[it]] })
    var sum = 0.0
    for (place in 0 until order.size - 1) {
        sum += rising[place]
        if (sum.toFloat() <= (1 - share).toFloat()) kept[order[place]] = Float.NEGATIVE_INFINITY
    }
}

/** The token at a [place] (0 to 1) of the cumulative distribution; never one without a chance. */
internal fun drawn(likely: FloatArray, place: Double): Int {
    val total = sum(likely)
    var (rising, last) = 0.0 to 0
    for (token in likely.indices) {
        if (likely[token] == 0f) continue
        rising += likely[token]
        last = token
        if (rising > place * total) return token
    }
    return last
}

/** Numbers from 0 to 1 from a seed and the number of a row (SplitMix64: Steele, Lea, Flood, 2014). */
internal class Uniform(seed: Long, row: Int) {
    private var state = seed * STEP + row * -0x2E4A_B5CD_2E6D_12FDL

    fun next(): Double {
        state += STEP
        var mixed = (state xor (state ushr 30)) * -0x40A7_B892_E31B_1A47L
        mixed = (mixed xor (mixed ushr 27)) * -0x6B2F_B644_ECCE_EE15L
        return ((mixed xor (mixed ushr 31)) ushr 11).toDouble() / (1L shl 53)
    }

    private companion object {
        const val STEP = -0x61C8_8646_80B5_83EBL
    }
}
