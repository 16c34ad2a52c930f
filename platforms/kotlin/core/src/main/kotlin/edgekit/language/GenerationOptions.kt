package edgekit

import kotlin.math.abs

/**
 * How tokens are chosen: greedy with one beam, beam search with more, at random with [sample]. Meaning is Python's.
 *
 * Throws [EdgeKitException.Usage]: a value out of range, or options that cannot go together.
 */
data class GenerationOptions(
    /** The most tokens that are generated, the end token included. */
    val maxNewTokens: Int = 20,
    /** Fewest tokens before an end token. */
    val minNewTokens: Int = 0,
    /** How many sequences a beam search keeps. */
    val beams: Int = 1,
    /** Sequences that are returned: at most [beams], any number while sampling. */
    val returned: Int = 1,
    /** Scores are divided by `length ** lengthPenalty`: above 0 favours long sequences. */
    val lengthPenalty: Double = 1.0,
    val earlyStopping: EarlyStopping = EarlyStopping.WHEN_NONE_LOOKS_BETTER,
    /** Above 1 makes tokens that are there already less likely, those of the prompt included. */
    val repetitionPenalty: Double = 1.0,
    /** N-grams of this length may not repeat; 0 is off. */
    val noRepeatNgramSize: Int = 0,
    /** Draw tokens at random. Seeds draw other tokens than Python's, from the same distribution. */
    val sample: Boolean = false,
    val temperature: Double = 1.0,
    /** Sample among this many likeliest tokens; 0 is all. */
    val topK: Int = 0,
    /** Sample among the likeliest tokens that make up this share of the probability. */
    val topP: Double = 1.0,
    /** Sample among tokens at least this times as likely as the likeliest. */
    val minP: Double = 0.0,
    /** The same seed draws the same tokens here; null draws anew. */
    val seed: Long? = null,
    /** Texts that end a sequence, and are no part of it. */
    val stop: List<String> = emptyList(),
) {
    enum class EarlyStopping { WHEN_FULL, WHEN_NONE_LOOKS_BETTER, NEVER }

    init {
        fun range(name: String, value: Any, fits: Boolean, wanted: String) {
            if (!fits) throw EdgeKitException.Usage("option $name=$value: expected $wanted")
        }
        range("maxNewTokens", maxNewTokens, maxNewTokens in 1..100_000, "1 to 100000")
        range("minNewTokens", minNewTokens, minNewTokens in 0..100_000, "0 to 100000")
        range("beams", beams, beams in 1..1000, "1 to 1000")
        range("returned", returned, returned in 1..1000, "1 to 1000")
        range("lengthPenalty", lengthPenalty, abs(lengthPenalty) <= 5, "-5 to 5")
        range("repetitionPenalty", repetitionPenalty, repetitionPenalty > 0 && repetitionPenalty.isFinite(), "a number above 0")
        range("noRepeatNgramSize", noRepeatNgramSize, noRepeatNgramSize in 0..100_000, "0 to 100000")
        range("temperature", temperature, temperature > 0 && temperature.isFinite(), "a number above 0")
        range("topK", topK, topK in 0..100_000, "0 to 100000")
        range("topP", topP, topP > 0 && topP <= 1, "a share above 0 and up to 1")
        range("minP", minP, minP in 0.0..1.0, "a share of 0 to 1")
        problem()?.let { throw EdgeKitException.Usage(it) }
    }

    private fun problem(): String? {
        val idle = listOf("temperature" to (temperature != 1.0), "topK" to (topK != 0), "topP" to (topP != 1.0), "minP" to (minP != 0.0)).firstOrNull { it.second }
        return when {
            "" in stop -> "option stop: an empty text ends everything; leave it out"
            minNewTokens > maxNewTokens -> "option minNewTokens=$minNewTokens is above maxNewTokens=$maxNewTokens: raise maxNewTokens"
            sample && beams > 1 -> "options sample=true and beams=$beams cannot go together: take beams=1, or sample=false"
            !sample && returned > beams -> "option returned=$returned is above beams=$beams: take beams=$returned or more, or sample=true"
            !sample && idle != null -> "option ${idle.first} means nothing without sampling: add sample=true, or leave it out"
            else -> null
        }
    }

    internal companion object {
        private val stopping: Reader<EarlyStopping> = { node, path ->
            when {
                node is Json.Bool -> if (node.value) EarlyStopping.WHEN_FULL else EarlyStopping.WHEN_NONE_LOOKS_BETTER
                node is Json.Text && node.value == "never" -> EarlyStopping.NEVER
                else -> throw Invalid("Expected true, false or 'never'", path)
            }
        }

        private val long: Reader<Long> = { node, path -> Read.long(node, path).also { if (it < 0) throw Invalid("Expected `int` >= 0", path) } }

        /** A bundle's own options, by Python's names. */
        val read: Reader<GenerationOptions> = Read.structure { fields ->
            val none = GenerationOptions()
            try {
                GenerationOptions(
                    fields.read("max_new_tokens", Read.int(), or = none.maxNewTokens),
                    fields.read("min_new_tokens", Read.int(), or = none.minNewTokens),
                    fields.read("beams", Read.int(), or = none.beams),
                    fields.read("returned", Read.int(), or = none.returned),
                    fields.read("length_penalty", Read.float, or = none.lengthPenalty),
                    fields.read("early_stopping", stopping, or = none.earlyStopping),
                    fields.read("repetition_penalty", Read.float, or = none.repetitionPenalty),
                    fields.read("no_repeat_ngram_size", Read.int(), or = none.noRepeatNgramSize),
                    fields.read("sample", Read.bool, or = none.sample),
                    fields.read("temperature", Read.float, or = none.temperature),
                    fields.read("top_k", Read.int(), or = none.topK),
                    fields.read("top_p", Read.float, or = none.topP),
                    fields.read("min_p", Read.float, or = none.minP),
                    fields.read("seed", Read.nullable(long), or = none.seed),
                    fields.read("stop", Read.list(Read.string), or = none.stop),
                )
            } catch (problem: EdgeKitException.Usage) {
                throw Invalid(problem.message.orEmpty(), fields.path)
            }
        }
    }
}
