package com.example.edgeapp

import android.R.layout.simple_spinner_dropdown_item
import android.net.Uri
import android.os.Bundle
import android.view.View
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.Spinner
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts
import androidx.lifecycle.lifecycleScope
import edgekit.EdgeKitException
import edgekit.LanguageScreenModel
import edgekit.LanguageScreenModel.State
import edgekit.VisionLanguage
import edgekit.camerax.toFrame
import java.util.Locale
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** The app's one screen around a vision-language model. What its buttons do is in [LanguageScreenModel]; here is what is seen of it. */
class LanguageActivity : ComponentActivity() {
    private val screen = LanguageScreenModel(lifecycleScope)
    private var isOpen = false
    private var styles = emptyList<String>()

    private val pick = registerForActivityResult(ActivityResultContracts.PickVisualMedia()) { uri -> if (uri != null) look(uri) }

    private val style: String? get() = styles.getOrNull(findViewById<Spinner>(R.id.style).selectedItemPosition)

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.language)
        click(R.id.choose) { pick.launch(PickVisualMediaRequest.Builder().setMediaType(ActivityResultContracts.PickVisualMedia.ImageOnly).build()) }
        click(R.id.describe) { screen.describe(style) }
        click(R.id.ask) { ask() }
        click(R.id.quiet) { screen.stop() }
        findViewById<EditText>(R.id.question).setOnEditorActionListener { _, _, _ ->
            ask()
            true
        }
        lifecycleScope.launch { screen.state.collect { show(it) } }
        screen.open(engine(this)) { withContext(Dispatchers.IO) { modelFolder(this@LanguageActivity) } }
    }

    override fun onStop() {
        screen.stop()
        super.onStop()
    }

    override fun onDestroy() {
        screen.close()
        super.onDestroy()
    }

    private fun ask() = screen.ask("${findViewById<EditText>(R.id.question).text}")

    private fun look(uri: Uri) {
        lifecycleScope.launch {
            try {
                val picture = withContext(Dispatchers.IO) { decoded(this@LanguageActivity, uri) }
                val frame = withContext(Dispatchers.Default) { picture.toFrame() }
                if (!screen.state.value.isReady) return@launch
                findViewById<ImageView>(R.id.picture).setImageBitmap(picture)
                show(R.id.picture, true)
                show(R.id.look, false)
                screen.look(frame, style)
            } catch (problem: EdgeKitException) {
                screen.complain(problem)
            }
        }
    }

    private fun show(state: State) {
        if (state.kind != null && !isOpen) opened(state)
        write(R.id.status, state.status)
        write(R.id.problem, state.problem?.let { "${it.title}\n${it.text}" }.orEmpty())
        show(R.id.problem, state.problem != null)
        write(R.id.asked, state.asked)
        show(R.id.asked, state.asked.isNotEmpty())
        write(R.id.answer, state.answer)
        show(R.id.quiet, state.isWriting)
        for (id in listOf(R.id.choose, R.id.describe, R.id.ask)) findViewById<Button>(id).isEnabled = state.isReady
        val times = state.times
        val lines = listOf(
            "Picture      ${shown(times.picture)}", "First piece  ${shown(times.first)}", "In all       ${shown(times.total)}",
            "Runs on      ${state.placement?.let { "${it.unit}, ${it.engine}" } ?: "–"}",
        )
        write(R.id.speed, lines.joinToString("\n"))
    }

    /** What is the same as long as the model is open. */
    private fun opened(state: State) {
        isOpen = true
        title = state.name
        styles = state.styles
        findViewById<Spinner>(R.id.style).adapter = ArrayAdapter(this, simple_spinner_dropdown_item, styles)
        show(R.id.style, styles.size > 1)
        show(R.id.describe, state.kind == VisionLanguage.Kind.GENERATION)
        if (state.isRetrieval) {
            findViewById<EditText>(R.id.question).setHint(R.string.fitting)
            findViewById<Button>(R.id.ask).setText(R.string.compare)
        }
    }

    private fun shown(milliseconds: Double?): String = when {
        milliseconds == null -> "–"
        milliseconds < 1000 -> "%.0f ms".format(Locale.ROOT, milliseconds)
        else -> "%.1f s".format(Locale.ROOT, milliseconds / 1000)
    }

    private fun write(id: Int, text: String) {
        val view = findViewById<TextView>(id)
        // What is read out is what changes.
        if (view.text.toString() != text) view.text = text
    }

    private fun show(id: Int, isShown: Boolean) {
        findViewById<View>(id).visibility = if (isShown) View.VISIBLE else View.GONE
    }

    private fun click(id: Int, what: () -> Unit) = findViewById<Button>(id).setOnClickListener { what() }
}
