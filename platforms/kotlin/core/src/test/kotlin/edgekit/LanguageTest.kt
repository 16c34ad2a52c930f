package edgekit

import java.io.File
import java.nio.ByteBuffer
import java.util.concurrent.atomic.AtomicInteger
import kotlin.math.abs
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test

/** [VisionLanguage] with an engine of the test's own that says `a red circle`, the logic of its screen, and converted BLIP-2. */
class LanguageTest {
    private fun picture(level: Byte = 127) = Frame(ByteArray(3 * 64 * 32) { level }, 64, 32, Frame.Format.RGB)

    /** Work with a bundle that is deleted afterwards. */
    private fun withBundle(family: String = "opt", work: suspend CoroutineScope.(File) -> Unit) = runBlocking {
        val folder = writeLanguageBundle(family)
        try {
            work(folder)
        } finally {
            folder.deleteRecursively()
        }
    }

    private fun CoroutineScope.screen(folder: File, engine: NetworkEngine) = LanguageScreenModel(this).apply { open(engine) { folder } }

    private suspend fun LanguageScreenModel.done(): LanguageScreenModel.State {
        work?.join()
        return state.value
    }

    @Test
    fun aModelDoesOneThingAtATimeAndNothingWhenItIsClosed() = withBundle { folder ->
        val engine = Parrot(milliseconds = 50)
        val model = VisionLanguage.open(folder, engine)
        assertEquals(listOf("caption", "short"), model.styles)
        val first = async { model.caption(picture()) }
        while (engine.looked.get() == 0) delay(2)
        assertThrows(EdgeKitException.Busy::class.java) { runBlocking { model.embed(picture()) } }
        val text = first.await()
        assertEquals("a red circle", text.text) // with the bundle's two beams
        assertTrue("${text.timings}", text.timings.vision >= 50 && text.timings.text >= 50)
        assertEquals(listOf(1, 2, 4), model.embed(picture()).shape)
        assertEquals(1, engine.looked.get())
        assertThrows(EdgeKitException.Usage::class.java) { runBlocking { model.match(picture(), "a") } }
        assertThrows(EdgeKitException.Usage::class.java) { model.stream(picture()) } // two beams
        val greedy = GenerationOptions()
        assertThrows(EdgeKitException.Usage::class.java) { model.stream(picture(), "red", style = "short", options = greedy) }
        assertEquals(listOf("a", " red", " circle"), model.stream(picture(), "red", options = greedy).toList())
        assertEquals("a", model.stream(picture(), options = greedy).first()) // and the model is free again
        assertEquals("a red circle", model.ask(picture(), "red", greedy).text)
        assertEquals("a red", model.caption(picture(), options = GenerationOptions(stop = listOf(" circle"))).text)
        assertEquals(2, model.caption(picture(), options = GenerationOptions(maxNewTokens = 2)).tokens.size)
        val cancelled = launch(Dispatchers.Default) { model.caption(picture(3)) }
        while (engine.looked.get() < 2) delay(2)
        cancelled.cancel()
        cancelled.join()
        assertEquals("a red circle", model.caption(picture()).text)
        model.close()
        assertEquals(3, engine.closed.get())
        assertThrows(EdgeKitException.Closed::class.java) { runBlocking { model.embed(picture()) } }
    }

    @Test
    fun bundlesOfOthersAndDamagedOnesAreRefused() = withBundle { folder ->
        fun refused(text: String, work: suspend () -> Unit) {
            val problem = assertThrows(EdgeKitException::class.java) { runBlocking { work() } }
            assertTrue(problem.message, problem.message!!.contains(text))
        }
        refused("open it with VisionLanguage.open") { EdgeModel.open(folder, Parrot()) }
        refused("for the engine onnxruntime; convert the model with --target litert") {
            VisionLanguage.open(folder, Parrot(opens = listOf("litert"), target = "litert"))
        }
        val detector = writeBundle()
        refused("no vision-language model") { VisionLanguage.open(detector, Parrot()) }
        detector.deleteRecursively()
        val without = writeLanguageBundle("opt") { it - "embeddings.npy" }
        val engine = Parrot()
        refused("no 'embeddings.npy' that the manifest lists") { VisionLanguage.open(without, engine) }
        assertEquals(3, engine.closed.get())
        without.deleteRecursively()
        val short = writeLanguageBundle("opt") { it + ("embeddings.npy" to embeddings(4)) }
        refused("token 4 is none of embeddings.npy, which has 4 rows") { VisionLanguage.open(short, Parrot()) }
        short.deleteRecursively()
        for (wrong in listOf(ByteArray(0), ByteArray(200), embeddings(5).copyOf(150))) {
            val other = writeLanguageBundle("opt") { it + ("embeddings.npy" to wrong) }
            refused("embeddings.npy: is no array (vocabulary, 4)") { VisionLanguage.open(other, Parrot()) }
            other.deleteRecursively()
        }
        VisionLanguage.open(folder, Parrot(logit = Float.NaN)).use { model -> refused("its numbers overflowed") { model.caption(picture()) } }
    }

    @Test
    fun aScreenDescribesAnswersAndRemembersThePicture() = withBundle { folder ->
        val engine = Parrot(milliseconds = 1)
        val screen = screen(folder, engine)
        val ready = screen.done()
        assertEquals(listOf("tiny", VisionLanguage.Kind.GENERATION, "parrot"), listOf(ready.name, ready.kind, ready.placement?.engine))
        assertEquals("Ready. Choose a picture.", ready.status)
        assertTrue(ready.isReady)
        val answers = ArrayList<String>()
        val watching = launch(Dispatchers.Unconfined) { screen.state.collect { if (it.answer != answers.lastOrNull()) answers.add(it.answer) } }
        screen.look(picture())
        screen.ask("is not heard meanwhile")
        val described = screen.done()
        watching.cancel()
        assertEquals(listOf("", "a", "a red", "a red circle"), answers)
        assertEquals(listOf("Described.", "", false, false), listOf(described.status, described.asked, described.isBusy, described.isWriting))
        assertTrue("${described.times}", described.times.run { picture!! > 0 && first!! > 0 && total!! >= picture + first })
        screen.ask("  red ")
        val answered = screen.done()
        assertEquals(listOf("red", "a red circle", "Answered."), listOf(answered.asked, answered.answer, answered.status))
        assertEquals(1, engine.looked.get())
        screen.ask(" \n")
        assertTrue(screen.state.value.isReady) // blanks are nothing
        screen.look(picture(7), "short")
        screen.done()
        assertEquals(2, engine.looked.get())
        screen.describe("long")
        assertEquals("style 'long' is not one of: caption, short", screen.done().problem?.text)
        screen.close()
    }

    @Test
    fun aTextIsStoppedAndTheNextIsWritten() = withBundle { folder ->
        val screen = screen(folder, Parrot(milliseconds = 20, length = 500))
        screen.done()
        screen.stop() // nothing to stop
        screen.look(picture())
        for (until in listOf("a red", "a red circle")) {
            screen.state.first { it.isWriting && it.answer == until }
            screen.stop()
            val stopped = screen.done()
            assertEquals(listOf("Stopped.", null, true), listOf(stopped.status, stopped.problem, stopped.isReady))
            assertTrue(stopped.answer, stopped.answer.startsWith(until))
            screen.describe()
        }
        screen.state.first { it.isWriting }
        screen.stop()
        screen.done()
    }

    @Test
    fun aTextIsComparedWhereTheBundleIsForRetrieval() = withBundle("retrieval") { folder ->
        val screen = screen(folder, Parrot())
        assertTrue(screen.done().isRetrieval)
        screen.look(picture())
        assertEquals("Write a text to compare the picture with.", screen.done().status)
        screen.ask("a red circle")
        assertEquals("88 % that it fits (similarity 0.60)", screen.done().answer)
        assertEquals("Compared.", screen.state.value.status)
    }

    @Test
    fun whatGoesWrongIsToldAndTheScreenGoesOn() = withBundle { folder ->
        val screen = screen(folder, Parrot(length = 0))
        screen.done()
        screen.ask("red")
        assertEquals(Problem("This picture cannot be used", "there is no picture yet; choose one"), screen.done().problem)
        screen.look(picture())
        val empty = screen.done()
        assertNull(empty.problem)
        assertEquals("The model says nothing.", empty.answer)
        val wrong = screen(File("/nowhere"), Parrot())
        assertEquals(listOf("There is no model here", "There is no model."), wrong.done().run { listOf(problem?.title, status) })
        wrong.describe()
        assertEquals("This does not work", wrong.done().problem?.title)
    }

    /** Converted BLIP-2 with ONNX Runtime in a process beside this one, against what Python said: see tests/test_platform_kotlin.py. */
    @Test
    fun textsPiecesAndMatchesArePythons() {
        val file = File(System.getProperty("edgekit.bundles").orEmpty(), "language.json")
        assumeTrue("EDGEKIT_KOTLIN_BUNDLES names no folder with BLIP-2 bundles", file.isFile)
        val entries = Json.parse(file.readBytes()).items
        assertTrue(entries.isNotEmpty())
        runBlocking { for (entry in entries) check(entry) }
    }

    private suspend fun check(entry: Json) {
        val folder = File(entry["bundle"].string!!)
        val (name, limit) = folder.name to entry["score"].number!!
        VisionLanguage.open(folder, ProcessEngine()).use { model ->
            for (one in entry["texts"].items) {
                val options = GenerationOptions.read(one["options"], "")
                val (image, question) = image(one["image"].string!!) to one["question"].string
                val made = if (question == null) model.caption(image, options = options) else model.ask(image, question, options)
                assertEquals(name, one["text"].string, made.text)
                assertEquals(name, one["tokens"].flat.map { it.toInt() }, made.tokens)
                assertEquals(name, one["others"].items.map { other -> other.flat.map { it.toInt() } }, made.others.map { it.tokens })
                assertTrue("$name: ${made.score}", abs(made.score - one["score"].number!!) < limit)
                if (options.beams == 1) assertEquals(name, made.text, model.stream(image, question, options = options).toList().joinToString("").trim())
            }
            for (one in entry["matches"].items) {
                val made = model.match(image(one["image"].string!!), one["text"].string!!)
                val apart = maxOf(abs(made.probability - one["probability"].number!!), abs(made.similarity - one["similarity"].number!!))
                assertTrue("$name: $made", apart < limit)
            }
            println("language $name: ${entry["texts"].items.size} texts, ${entry["matches"].items.size} matches, ${model.placement.engine}")
        }
    }

    private fun image(path: String): Frame = Png.read(File(path).readBytes(), path).let { Frame(it.data, it.width, it.height, Frame.Format.RGB) }
}

/** An engine whose language model says `a red circle` over and over, up to a [length], and then an end token. */
private class Parrot(
    private val milliseconds: Long = 0, private val length: Int = 3, private val logit: Float = 5f,
    override val opens: List<String> = listOf("onnxruntime"), override val target: String = "onnx",
) : NetworkEngine {
    /** How often the vision model ran, and how many networks were closed. */
    val looked = AtomicInteger()
    val closed = AtomicInteger()

    override suspend fun open(graph: Graph, bundle: EdgeBundle): Session = throw EdgeKitException.Engine("the parrot has no single graph")

    override suspend fun openNetwork(graph: Graph, bundle: EdgeBundle): Network = object : Network {
        override val graph = graph
        override val placement = Placement("cpu", "parrot", "a test")
        private var said = 0

        override suspend fun run(feeds: Map<String, Tensor>): Map<String, Tensor> {
            if (graph.name == "vision") looked.incrementAndGet()
            if (milliseconds > 0) delay(milliseconds)
            if (graph.name == "language") return spoken(feeds)
            val features = Tensor(floatArrayOf(0.6f, 0.8f, 0f, 0f, 0f, 0f, 1f, 0f), listOf(1, 2, 4))
            return mapOf(
                "image_embeds" to features, "language_inputs" to features, "image_vectors" to features,
                "text_vector" to Tensor(floatArrayOf(1f, 0f, 0f, 0f), listOf(1, 4)), "logits" to Tensor(floatArrayOf(1f, 3f), listOf(1, 2)),
            )
        }

        private fun spoken(feeds: Map<String, Tensor>): Map<String, Tensor> {
            val (rows, count) = feeds.getValue("inputs_embeds").shape
            said = if (count > 1) 0 else said + 1
            val token = if (said < length) 1 + said % 3 else 4
            return mapOf(
                "logits" to Tensor(FloatArray(rows * 5) { if (it % 5 == token) logit else 0f }, listOf(rows, 5)),
                "present.0.key" to feeds.getValue("past.0.key"), "present.0.value" to feeds.getValue("past.0.value"),
            )
        }

        override fun close() {
            closed.incrementAndGet()
        }
    }
}

/** A vision-language bundle of five tokens whose graphs only the parrot runs. */
private fun writeLanguageBundle(family: String, files: (Map<String, ByteArray>) -> Map<String, ByteArray> = { it }): File {
    fun graph(name: String, inputs: String, outputs: String) = """{"name": "$name", "files": ["model.onnx"], "inputs": [$inputs], "outputs": [$outputs]}"""
    fun spec(name: String, shape: String = "[1, 2, 4]") = """{"name": "$name", "shape": $shape}"""
    val past = "[-1, 1, -1, 2]"
    val seeing = listOf(graph("vision", spec("pixel_values"), spec("image_embeds")), graph("qformer", spec("image_embeds"), spec("language_inputs")))
    val speaking = listOf(
        graph("language", listOf(spec("past.0.key", past), spec("past.0.value", past), spec("seqlens", "[-1]")).joinToString(), spec("logits", "[-1, 5]")),
    )
    val comparing = listOf(graph("text", spec("input_ids"), spec("text_vector")), graph("match", spec("image_embeds"), spec("logits")))
    val isRetrieval = family == "retrieval"
    val prompts = if (isRetrieval) "{}" else """{"caption": "", "short": "", "ask": "{}"}"""
    val language = """
        {"family": "$family", "queries": 2, "image": 0, "pad": 0, "start": 0, "eos": [4], "layers": 1, "heads": 1, "head_size": 2, "width": 4,
         "prompts": $prompts, "generation": {"max_new_tokens": 600, "beams": ${if (isRetrieval) 1 else 2}}}
        """
    val tokenizer = """
        {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1, "red": 2, "circle": 3, "</s>": 4}, "unk_token": "[UNK]",
         "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}, "pre_tokenizer": {"type": "WhitespaceSplit"}, "added_tokens": []}
        """
    return writeBundle(
        mapOf("graphs" to (seeing + if (isRetrieval) comparing else speaking).toString()), mapOf("language" to language),
        files(mapOf("tokenizer.json" to tokenizer.toByteArray(), "embeddings.npy" to embeddings(5))),
    )
}

/** So many rows of four zeros as `embeddings.npy`. */
private fun embeddings(rows: Int): ByteArray {
    val header = "{'descr': '<f4', 'fortran_order': False, 'shape': ($rows, 4), }".padEnd(117) + "\n"
    val bytes = ByteBuffer.allocate(10 + header.length + 16 * rows)
    return bytes.put(0x93.toByte()).put("NUMPY".toByteArray()).put(byteArrayOf(1, 0, 118, 0)).put(header.toByteArray()).array()
}
