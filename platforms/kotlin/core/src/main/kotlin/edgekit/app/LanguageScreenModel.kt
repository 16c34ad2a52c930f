package edgekit

import java.io.File
import java.util.Locale
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch

/**
 * What the screen of a vision-language model shows, and what its buttons do: one text after the other, in a [scope] of one thread.
 *
 * [options] are in place of the bundle's own. Beams are left out: texts are shown as they are made.
 */
class LanguageScreenModel(private val scope: CoroutineScope, private val options: GenerationOptions? = null) : AutoCloseable {
    /** All that is shown but the picture itself. */
    data class State(
        /** Null until the model is open, as [kind] and [placement]. */
        val name: String? = null,
        val kind: VisionLanguage.Kind? = null,
        val placement: Placement? = null,
        val styles: List<String> = emptyList(),
        val status: String = "The model is being opened.",
        val problem: Problem? = null,
        /** The question or text that [answer] belongs to; empty for a caption. */
        val asked: String = "",
        val answer: String = "",
        val isBusy: Boolean = true,
        /** Whether there is a text to stop. */
        val isWriting: Boolean = false,
        val times: Times = Times(),
    ) {
        val isRetrieval: Boolean get() = kind == VisionLanguage.Kind.RETRIEVAL

        /** Whether the buttons do anything. */
        val isReady: Boolean get() = kind != null && !isBusy
    }

    /** Milliseconds of the last text: of the picture (next to nothing where it was remembered), of the first piece after it, of all. */
    data class Times(val picture: Double? = null, val first: Double? = null, val total: Double? = null)

    private val shown = MutableStateFlow(State())
    val state: StateFlow<State> = shown.asStateFlow()
    private var model: VisionLanguage? = null
    private var picture: Frame? = null

    /** What is going on, or was last. */
    internal var work: Job? = null
        private set

    /** Open the bundle in a folder that `edgekit convert` wrote; [folder] may have to make it first. */
    fun open(engine: NetworkEngine, folder: suspend () -> File) = alone {
        val model = VisionLanguage.open(folder(), engine)
        this.model = model
        shown.update {
            it.copy(name = model.manifest.name, kind = model.kind, placement = model.placement, styles = model.styles, status = "Ready. Choose a picture.")
        }
    }

    /** Another picture: it is described, or texts can be compared with it. */
    fun look(frame: Frame, style: String? = null) = alone {
        picture = frame
        shown.update { it.copy(asked = "", answer = "", times = Times()) }
        if (state.value.isRetrieval) say("Write a text to compare the picture with.") else write(null, style)
    }

    fun describe(style: String? = null) = alone { write(null, style) }

    /** Answer a question, or compare a text where the bundle is for retrieval. Blanks alone are nothing. */
    fun ask(given: String) {
        val text = given.trim()
        if (text.isNotEmpty()) alone { if (state.value.isRetrieval) compare(text) else write(text, null) }
    }

    /** Stop the text that is being written. */
    fun stop() {
        if (state.value.isWriting) work?.cancel()
    }

    /** Show what went wrong outside. */
    fun complain(problem: Throwable) = shown.update { it.copy(problem = Problem.of(problem)) }

    /** Let go of the model, after what is running. */
    override fun close() {
        model?.close()
    }

    private suspend fun write(question: String?, style: String?) {
        val (model, picture) = ready()
        val (doing, done) = if (question == null) "Describing the picture." to "Described." else "Answering." to "Answered."
        shown.update { it.copy(isWriting = true, asked = question.orEmpty(), answer = "", times = Times(), status = doing) }
        try {
            val begun = System.nanoTime()
            model.embed(picture) // is remembered, and timed by itself
            val seen = System.nanoTime()
            time { it.copy(picture = (seen - begun) * 1e-6) }
            val chosen = (options ?: model.defaults).copy(beams = 1, returned = 1)
            model.stream(picture, question, style = style, options = chosen).collect { add(it, seen) }
            time { it.copy(total = (System.nanoTime() - begun) * 1e-6) }
        } finally {
            shown.update { it.copy(isWriting = false) }
        }
        shown.update { it.copy(answer = it.answer.trim().ifEmpty { "The model says nothing." }, status = done) }
    }

    private fun add(piece: String, seen: Long) {
        if (state.value.times.first == null) time { it.copy(first = (System.nanoTime() - seen) * 1e-6) }
        // Models begin with a blank.
        shown.update { it.copy(answer = if (it.answer.isEmpty()) piece.trimStart() else it.answer + piece) }
    }

    private suspend fun compare(text: String) {
        val (model, picture) = ready()
        shown.update { it.copy(asked = text, answer = "", times = Times(), status = "Comparing.") }
        val begun = System.nanoTime()
        model.embed(picture)
        time { it.copy(picture = (System.nanoTime() - begun) * 1e-6) }
        val found = model.match(picture, text)
        time { it.copy(total = (System.nanoTime() - begun) * 1e-6) }
        val answer = "%.0f %% that it fits (similarity %.2f)".format(Locale.ROOT, 100 * found.probability, found.similarity)
        shown.update { it.copy(answer = answer, status = "Compared.") }
    }

    private fun ready(): Pair<VisionLanguage, Frame> = Pair(
        model ?: throw EdgeKitException.Closed("the model is not open"),
        picture ?: throw EdgeKitException.Input("there is no picture yet; choose one"),
    )

    private fun say(text: String) = shown.update { it.copy(status = text) }

    private fun time(change: (Times) -> Times) = shown.update { it.copy(times = change(it.times)) }

    /** One thing at a time; a second wish meanwhile is not heard. */
    private fun alone(what: suspend () -> Unit) {
        if (work?.isActive == true) return
        shown.update { it.copy(isBusy = true, problem = null) }
        work = scope.launch {
            try {
                what()
            } catch (stopped: CancellationException) {
                say("Stopped.")
                throw stopped
            } catch (problem: Exception) { // the folder may be the app's to make, too
                complain(problem)
                say(if (model == null) "There is no model." else "Ready.")
            } finally {
                shown.update { it.copy(isBusy = false) }
            }
        }
    }
}
