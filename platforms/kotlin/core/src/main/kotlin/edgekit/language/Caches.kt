package edgekit

/**
 * Keys and values of the tokens so far, kept between the runs of a decoder. All rows are of one prompt and equally long.
 *
 * A graph of the target onnx appends to the cache (GroupQueryAttention): what comes out goes in with the next token. One of the
 * target web reads it and gives the new keys and values alone.
 *
 * Throws [EdgeKitException.Engine]: the graph takes neither kind of cache, or one of another size.
 */
internal class CachedDecoder(private val network: Network, private val language: Language) {
    var rows = 1
        private set

    /** Tokens of every row. */
    var used = 0
        private set
    private val isHosted: Boolean
    private val names = List(2 * language.layers) { "${it / 2}.${if (it % 2 == 0) "key" else "value"}" }

    /** (rows, heads, capacity, size) each. */
    private val buffers = HashMap<String, FloatArray>()
    private var capacity = 0

    init {
        val inputs = network.graph.inputs
        val taken = inputs.map { it.name }
        isHosted = "mask" in taken && "pick" in taken
        val pasts = inputs.filter { it.name.startsWith("past.") }
        val fits = pasts.size == names.size &&
            pasts.all { it.shape.size == 4 && it.shape[1] == language.heads.toLong() && it.shape[3] == language.headSize.toLong() }
        if (!fits || !(isHosted || "seqlens" in taken)) {
            throw EdgeKitException.Engine(
                "graph '${network.graph.name}' takes ${taken.joinToString(", ")}, and no cache of ${language.layers} layers with " +
                    "${language.heads} heads of ${language.headSize} numbers that this library keeps; convert with --target onnx or web",
            )
        }
    }

    /** How many tokens the graph chooses among, as the manifest says. */
    val vocabulary: Int get() = network.graph.outputs.firstOrNull { it.name == "logits" }?.shape?.lastOrNull()?.toInt() ?: 0

    /** Forget everything; there is one row, which is to have so many tokens. */
    fun begin(tokens: Int) {
        rows = 1
        used = 0
        capacity = tokens + ROOM
        for (name in names) buffers[name] = FloatArray(language.heads * capacity * language.headSize)
    }

    /** Keep these rows, in this order. */
    fun select(chosen: List<Int>) = rearrange(chosen, capacity)

    private fun rearrange(chosen: List<Int>, room: Int) {
        val (heads, size) = language.heads to language.headSize
        for ((name, old) in buffers.toList()) {
            val made = FloatArray(chosen.size * heads * room * size)
            chosen.forEachIndexed { i, row ->
                for (head in 0 until heads) {
                    val from = (row * heads + head) * capacity * size
                    old.copyInto(made, (i * heads + head) * room * size, from, from + used * size)
                }
            }
            buffers[name] = made
        }
        rows = chosen.size
        capacity = room
    }

    /** Append tokens (rows, tokens, width) to every row; logits (rows, vocabulary) behind the last. */
    suspend fun read(embeddings: Tensor, feeds: Map<String, Tensor>): Tensor {
        val count = embeddings.shape[1]
        if (used + count > capacity) rearrange(List(rows) { it }, maxOf(2 * capacity, used + count))
        val shape = listOf(rows, language.heads, capacity, language.headSize)
        val pasts = names.associate { "past.$it" to Tensor(buffers.getValue(it), shape) }
        val found = network.run((if (isHosted) hosted(count) else appending(count)) + feeds + pasts + ("inputs_embeds" to embeddings))
        for (name in names) {
            val new = found["present.$name"]
            val wanted = if (isHosted) listOf(rows, language.heads, count, language.headSize) else shape
            if (new?.shape != wanted) {
                throw EdgeKitException.Engine("the language graph gave 'present.$name' of shape ${new?.shown ?: "none"}, not ${Tensor.shown(wanted)}; convert again")
            }
            if (isHosted) append(new.data, count, buffers.getValue(name)) else buffers[name] = new.data
        }
        used += count
        return found["logits"] ?: throw EdgeKitException.Engine("the language graph gave no 'logits'; convert the model again")
    }

    private fun appending(count: Int): Map<String, Tensor> {
        fun each(value: Int) = Tensor(FloatArray(rows) { value.toFloat() }, listOf(rows))
        return mapOf("last" to each(count - 1), "seqlens" to each(used + count - 1), "total" to Tensor(floatArrayOf((used + count).toFloat()), emptyList()))
    }

    private fun hosted(count: Int): Map<String, Tensor> {
        val pick = FloatArray(rows * count) { if (it % count == count - 1) 1f else 0f }
        // Key less query, for the one token that such a decoder reads.
        val distances = FloatArray(capacity + 1) { if (it < capacity) (it - used).toFloat() else 0f }
        return mapOf("mask" to mask(count), "pick" to Tensor(pick, listOf(rows, 1, count)), "distances" to Tensor(distances, listOf(1, capacity + 1)))
    }

    private fun append(data: FloatArray, count: Int, to: FloatArray) {
        val size = language.headSize
        for (head in 0 until rows * language.heads) data.copyInto(to, (head * capacity + used) * size, head * count * size, (head + 1) * count * size)
    }

    /** 0 where a token may look: at all that is in the cache, at itself and the new ones before it. */
    private fun mask(count: Int): Tensor {
        val wide = capacity + count
        val mask = FloatArray(rows * count * wide) { HIDDEN }
        for (line in 0 until rows * count) {
            mask.fill(0f, line * wide, line * wide + used)
            mask.fill(0f, line * wide + capacity, line * wide + capacity + line % count + 1)
        }
        return Tensor(mask, listOf(rows, 1, count, wide))
    }

    private companion object {
        /** Tokens that buffers have room for beyond what is there. */
        const val ROOM = 64

        /** What is added to the score of a key that may not be looked at. */
        const val HIDDEN = -1e4f
    }
}

/** OPT: one graph, `language`. */
internal class OptGraph(private val decoder: CachedDecoder, private val embeddings: Embeddings) : LanguageGraph {
    override suspend fun start(embeddings: Tensor): Tensor {
        val count = embeddings.shape[1]
        decoder.begin(count)
        return decoder.read(embeddings, mapOf("position_ids" to Tensor(FloatArray(count) { it.toFloat() }, listOf(1, count))))
    }

    override suspend fun step(tokens: List<Int>): Tensor {
        val places = Tensor(FloatArray(tokens.size) { decoder.used.toFloat() }, listOf(tokens.size, 1))
        return decoder.read(embeddings.tensor(tokens), mapOf("position_ids" to places))
    }

    override fun select(rows: List<Int>) = decoder.select(rows)
}

/** T5: `encoder` and `decoder`. */
internal class T5Graph(
    private val encoder: Network, private val decoder: CachedDecoder, private val embeddings: Embeddings, private val start: Int,
) : LanguageGraph {
    /** What the encoder found, of one row, and the same for every row. */
    private var seen = emptyMap<String, Tensor>()
    private var looked = emptyMap<String, Tensor>()

    override suspend fun start(embeddings: Tensor): Tensor {
        val count = embeddings.shape[1]
        // A mask of 1 where there is a token, or of what is added to the scores: there is no padding.
        val isOne = encoder.graph.inputs.any { it.name == "attention_mask" }
        val mask = if (isOne) Tensor(FloatArray(count) { 1f }, listOf(1, count)) else Tensor(FloatArray(count), listOf(1, 1, 1, count))
        val away = Tensor(FloatArray(count * count) { (it % count - it / count).toFloat() }, listOf(count, count))
        val found = encoder.run(mapOf("inputs_embeds" to embeddings, "attention_mask" to mask, "mask" to mask, "distances" to away))
        seen = found + ("encoder_mask" to mask)
        looked = seen
        decoder.begin(1)
        return step(listOf(start))
    }

    override suspend fun step(tokens: List<Int>): Tensor = decoder.read(embeddings.tensor(tokens), looked)

    override fun select(rows: List<Int>) {
        val before = decoder.rows
        decoder.select(rows)
        if (rows.size == before) return
        looked = seen.mapValues { (_, one) ->
            Tensor(FloatArray(rows.size * one.data.size) { one.data[it % one.data.size] }, listOf(rows.size) + one.shape.drop(1))
        }
    }
}

/** One token for each row, (rows, 1, width). */
private fun Embeddings.tensor(tokens: List<Int>) = Tensor(rows(tokens), listOf(tokens.size, 1, width))
