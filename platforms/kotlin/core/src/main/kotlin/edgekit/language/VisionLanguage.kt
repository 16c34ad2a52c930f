package edgekit

import java.io.File
import java.io.RandomAccessFile
import java.nio.channels.FileChannel.MapMode
import kotlin.math.exp
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.withContext

/** A generated text. */
class GeneratedText internal constructor(
    val text: String,
    /** What it continues or answers. */
    val prompt: String,
    /** Sum of the tokens' log-probabilities by `length ** lengthPenalty`. */
    val score: Float,
    val tokens: List<Int>,
    /** With `returned` above 1 the further texts, the best first. */
    val others: List<GeneratedText>,
    /** Milliseconds of the image, which is remembered, and of the text. */
    val timings: TextTimings,
)

/** Milliseconds of the image, and of the text. */
data class TextTimings(val vision: Double, val text: Double)

/** How well a text fits an image: that it belongs to it (0 to 1), and the cosine of its vector and the nearest of the image's. */
data class TextMatch(val text: String, val probability: Double, val similarity: Double)

/** A BLIP-2, opened: [caption], [ask] and [stream], or [embed] and [match]. It does one thing at a time; [close] it in the end. */
class VisionLanguage private constructor(bundle: EdgeBundle, private val language: Language, private val networks: Map<String, Network>) : AutoCloseable {
    /** What a bundle is for: captions and answers, or matches of images and texts. */
    enum class Kind { GENERATION, RETRIEVAL }

    val manifest: Manifest = bundle.manifest
    val kind: Kind = if (language.isRetrieval) Kind.RETRIEVAL else Kind.GENERATION

    /** Generation options of the bundle. */
    val defaults: GenerationOptions = language.generation

    /** What captions can be asked for as their `style`: `caption`, `short`, `detailed`. */
    val styles: List<String> = language.prompts.keys.filter { it != "ask" }.sorted()

    /** What runs where, and why. */
    val placement: Placement = networks.getValue("vision").placement

    private val tokenizer = Tokenizer.of(bundle.guarded("tokenizer.json").readBytes())
    private val writer = if (language.isRetrieval) null else Writer(bundle, language, networks)
    private val preprocessor = Preprocessor(manifest.contract.image)
    private val turn = Turn(
        busy = "this model is busy: await its text, or end its stream, first",
        closed = "this model is closed: open it again with VisionLanguage.open(...)",
    ) { for (network in networks.values) network.close() }

    /** The last image that was looked at, and what was seen in it. */
    private var known: Seen? = null

    /**
     * Describe an image. [style] is one of [styles], [prompt] a text that is continued instead.
     *
     * Throws [EdgeKitException.Usage]: a retrieval bundle, no such style, a prompt that is too long. [EdgeKitException.Busy],
     * [EdgeKitException.Closed]. [EdgeKitException.Engine]: an engine failed, or gave something unusable.
     */
    suspend fun caption(image: Frame, prompt: String? = null, style: String? = null, options: GenerationOptions = defaults): GeneratedText =
        written(image, captionPrompt(prompt, style), options)

    /** Answer a [question] about an image; the contract says how it is asked. Throws as [caption]. */
    suspend fun ask(image: Frame, question: String, options: GenerationOptions = defaults): GeneratedText =
        written(image, questionPrompt(question), options)

    /**
     * The pieces of one text as they are made: together [caption]'s, or [ask]'s with a [question], with the spaces around it.
     *
     * The model is busy until the flow ends, also by a collector that stops. Throws as [caption]; beams cannot be streamed.
     */
    fun stream(
        image: Frame, question: String? = null, prompt: String? = null, style: String? = null, options: GenerationOptions = defaults,
    ): Flow<String> {
        if (question != null && (prompt ?: style) != null) throw EdgeKitException.Usage("stream takes a question, or a prompt or a style, not both")
        val text = if (question != null) questionPrompt(question) else captionPrompt(prompt, style)
        if (options.beams > 1 || options.returned > 1) {
            val what = "beams=${options.beams}, returned=${options.returned} cannot be streamed"
            throw EdgeKitException.Usage("$what: no token is final before the end; take 1")
        }
        return flow {
            turn.alone {
                val steps = Stepwise(writer!!.graph, promptOf(seen(image).projected, text, options), options)
                val (decoded, cutter) = tokenizer.pieces() to Cutter(options.stop)
                while (!cutter.ended) {
                    // An end token need not be a special one: that of BLIP-2's OPT is a line break.
                    val token = steps.next()?.first()?.token?.takeIf { it !in language.eos } ?: break
                    val piece = cutter.add(decoded.add(token).orEmpty())
                    if (piece.isNotEmpty()) emit(piece)
                }
                if (cutter.held.isNotEmpty()) emit(cutter.held)
            }
        }.flowOn(Dispatchers.Default)
    }

    /** What the next stage reads of an image (1, tokens, width); the image is remembered, and known to the next text or match. */
    suspend fun embed(image: Frame): Tensor = working { seen(image).projected }

    /** The vector of a text, of length 1. */
    suspend fun embed(text: String): FloatArray {
        retrieving("embed(text)")
        return working { vector(text) }
    }

    /** How well a text fits an image. */
    suspend fun match(image: Frame, text: String): TextMatch {
        retrieving("match")
        return working {
            val (seen, vector) = seen(image) to vector(text)
            val made = networks.getValue("match").run(ids(text) + ("image_embeds" to seen.vision))
            val logits = output(made, "logits", listOf(1, 2)).data
            val projected = seen.projected.data
            val similarity = (projected.indices step vector.size).maxOf { start ->
                vector.indices.sumOf { projected[start + it].toDouble() * vector[it] }
            }
            TextMatch(text, 1 / (1 + exp((logits[0] - logits[1]).toDouble().coerceIn(-700.0, 700.0))), similarity)
        }
    }

    /** Let go of the engines and their memory, after what is running; what is called afterwards throws [EdgeKitException.Closed]. */
    override fun close() = turn.close()

    private suspend fun <T> working(work: suspend () -> T): T = turn.alone { withContext(Dispatchers.Default) { work() } }

    private suspend fun written(image: Frame, prompt: String, options: GenerationOptions): GeneratedText = working {
        val begun = System.nanoTime()
        val ready = promptOf(seen(image).projected, prompt, options)
        val known = System.nanoTime()
        val stopped: Stopped = { tokens -> options.stop.isNotEmpty() && tokenizer.decode(tokens).let { cut(it, options.stop) != it } }
        val made = generate(writer!!.graph, ready, options, stopped)
        val timings = TextTimings((known - begun) * 1e-6, (System.nanoTime() - known) * 1e-6)
        fun text(one: GeneratedSequence, others: List<GeneratedText>): GeneratedText {
            val words = cut(tokenizer.decode(one.tokens.filter { it !in language.eos }), options.stop)
            return GeneratedText(words.trim { isSpace(it.code) }, prompt, one.score, one.tokens, others, timings)
        }
        text(made[0], made.drop(1).map { text(it, emptyList()) })
    }

    private fun captionPrompt(prompt: String?, style: String?): String {
        generating()
        if (prompt != null && style != null) throw EdgeKitException.Usage("prompt '$prompt' and style '$style' say the same thing twice; leave one out")
        if (style != null && style !in styles) throw EdgeKitException.Usage("style ${choices(style, styles)}")
        return prompt ?: language.prompts[style ?: "caption"].orEmpty()
    }

    private fun questionPrompt(question: String): String {
        generating()
        return (language.prompts["ask"] ?: "Question: {} Answer:").replaceFirst("{}", question)
    }

    private fun promptOf(image: Tensor, text: String, options: GenerationOptions): Prompt {
        val (queries, width) = language.queries to language.width
        if (image.data.size != queries * width) {
            throw invalid("the Q-Former gives ${image.shown} for an image, the contract says ($queries, $width)")
        }
        val (ids, embeddings) = tokenizer.encode(text) to writer!!.embeddings
        if (language.image in ids) throw EdgeKitException.Usage("prompt '$text' holds the image's placeholder, which is put there anyway")
        ids.firstOrNull { it >= embeddings.count }?.let { throw invalid("the tokenizer gave token $it, embeddings.npy has ${embeddings.count}") }
        val total = ids.size + queries + options.maxNewTokens
        if (language.positions in 1 until total) {
            throw EdgeKitException.Usage(
                "prompt of ${ids.size} tokens, $queries of the image and maxNewTokens=${options.maxNewTokens} are $total, the model takes " +
                    "${language.positions}: shorten the prompt or lower maxNewTokens",
            )
        }
        // The penalties of T5 read what its decoder begins with, not the encoder's prompt.
        val read = if (language.family == "t5") listOf(language.start) else List(queries) { language.image } + ids
        val tensor = Tensor(image.data + embeddings.rows(ids), listOf(1, queries + ids.size, width))
        return Prompt(tensor, read, language.eos, language.pad)
    }

    private class Seen(val pixels: FloatArray, val vision: Tensor, val projected: Tensor)

    private suspend fun seen(image: Frame): Seen {
        val (pixels, _) = preprocessor.run(image.upright())
        known?.let { if (it.pixels.contentEquals(pixels.data)) return it }
        val vision = output(networks.getValue("vision").run(mapOf("pixel_values" to pixels)), "image_embeds", listOf(1, null, null))
        val made = networks.getValue("qformer").run(mapOf("image_embeds" to vision))
        val projected = output(made, if (language.isRetrieval) "image_vectors" else "language_inputs", listOf(1, null, null))
        // A copy: the preprocessor writes the next picture over its tensor.
        return Seen(pixels.data.copyOf(), vision, projected).also { known = it }
    }

    private fun ids(text: String): Map<String, Tensor> {
        val ids = tokenizer.encode(text)
        if (language.positions in 1 until ids.size) {
            throw EdgeKitException.Usage("text '$text': ${ids.size} tokens, the model takes ${language.positions}; shorten it")
        }
        val shape = listOf(1, ids.size)
        return mapOf("input_ids" to Tensor(FloatArray(ids.size) { ids[it].toFloat() }, shape), "attention_mask" to Tensor(FloatArray(ids.size) { 1f }, shape))
    }

    private suspend fun vector(text: String): FloatArray = output(networks.getValue("text").run(ids(text)), "text_vector", listOf(1, null)).data

    private fun generating() {
        if (language.isRetrieval) throw EdgeKitException.Usage("this is a retrieval bundle (match, embed); texts need one of BLIP-2 with OPT or T5")
    }

    private fun retrieving(method: String) {
        if (!language.isRetrieval) throw EdgeKitException.Usage("$method needs a retrieval bundle (BLIP-2 for image-text matching); this one writes texts")
    }

    companion object {
        private val parts = mapOf(
            "opt" to listOf("vision", "qformer", "language"), "t5" to listOf("vision", "qformer", "encoder", "decoder"),
            "retrieval" to listOf("vision", "qformer", "text", "match"),
        )

        /**
         * Open the bundle in a [folder] that `edgekit convert` wrote for the targets onnx and web. All hashes are checked.
         *
         * Throws [EdgeKitException.Bundle]: damaged, altered or too new, or parts are missing. [EdgeKitException.Engine]: the engine
         * refuses a file. [EdgeKitException.Usage]: no vision-language model, or a bundle of another engine.
         */
        suspend fun open(folder: File, engine: NetworkEngine): VisionLanguage = withContext(Dispatchers.IO) {
            val bundle = EdgeBundle.open(folder)
            val manifest = bundle.manifest
            val language = manifest.contract.language ?: throw EdgeKitException.Usage(
                "${manifest.name} is a ${manifest.contract.task} model and no vision-language model; open it with EdgeModel.open(...)",
            )
            val networks = LinkedHashMap<String, Network>()
            try {
                for (name in parts.getValue(language.family)) networks[name] = engine.openNetwork(graph(manifest, name, engine), bundle)
                VisionLanguage(bundle, language, networks)
            } catch (problem: Throwable) {
                for (network in networks.values) network.close()
                throw problem
            }
        }

        private fun graph(manifest: Manifest, name: String, engine: Engine): Graph {
            val graph = manifest.graphs.firstOrNull { it.name == name } ?: throw invalid("${manifest.name}: no graph '$name'")
            val own = graph.engine ?: manifest.engine
            if (own !in engine.opens) {
                throw EdgeKitException.Usage("${manifest.name}: its $name is for the engine $own; convert the model with --target ${engine.target}")
            }
            return graph
        }
    }
}

/** What writes texts: the language model and the embeddings that it reads. */
private class Writer(bundle: EdgeBundle, language: Language, networks: Map<String, Network>) {
    // Mapped, not read: those of a large model would not fit into an app's heap.
    val embeddings = Embeddings(
        RandomAccessFile(bundle.guarded("embeddings.npy"), "r").use { it.channel.map(MapMode.READ_ONLY, 0, it.length()) }, language.width,
    )
    val graph: LanguageGraph

    init {
        val decoder = CachedDecoder(networks["language"] ?: networks.getValue("decoder"), language)
        for (token in listOf(decoder.vocabulary - 1, language.pad, language.start)) {
            if (token >= embeddings.count) throw invalid("token $token is none of embeddings.npy, which has ${embeddings.count} rows")
        }
        graph = networks["encoder"]?.let { T5Graph(it, decoder, embeddings, language.start) } ?: OptGraph(decoder, embeddings)
    }
}

private fun invalid(what: String) = EdgeKitException.Bundle(BundleProblem.INVALID, "$what; convert the model again")

private fun EdgeBundle.guarded(name: String): File {
    if (!lists(name)) throw invalid("${manifest.name}: no '$name' that the manifest lists")
    return file(name)
}

/** One output of a network, null in [shape] is any size. */
private fun output(given: Map<String, Tensor>, name: String, shape: List<Int?>): Tensor {
    val found = given[name]
    if (found == null || found.shape.size != shape.size || shape.indices.any { shape[it] != null && shape[it] != found.shape[it] }) {
        throw EdgeKitException.Engine("a graph gave ${found?.let { "'$name' of shape ${it.shown}" } ?: "no '$name'"}; convert the model again")
    }
    if (!found.data.all { it.isFinite() }) throw EdgeKitException.Engine("a graph gave '$name' with NaN or infinite numbers: try a higher precision")
    return found
}
