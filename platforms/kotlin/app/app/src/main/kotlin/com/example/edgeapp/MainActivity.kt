package com.example.edgeapp

import android.Manifest
import android.content.pm.PackageManager
import android.content.res.Configuration
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.net.Uri
import android.os.Bundle
import android.os.SystemClock
import android.view.View
import android.widget.Button
import android.widget.ImageView
import android.widget.SeekBar
import android.widget.Switch
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts
import androidx.lifecycle.lifecycleScope
import edgekit.Benchmark
import edgekit.EdgeKitException
import edgekit.EdgeModel
import edgekit.EdgeResult
import edgekit.Frame
import edgekit.Hud
import edgekit.Overlay
import edgekit.Problem
import edgekit.Thresholds
import edgekit.Tracker
import edgekit.camerax.toFrame
import edgekit.lines
import edgekit.sentence
import java.io.File
import java.io.IOException
import java.util.Locale
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/**
 * The app's one screen: the bundle on a camera or a picture, with its figures, its self-check and its benchmark. One thing at a time: the
 * camera is stopped before anything else begins.
 */
class MainActivity : ComponentActivity() {
    private lateinit var folder: File
    private lateinit var camera: Camera
    private var model: EdgeModel? = null
    private var result: EdgeResult? = null
    private var seen: Frame? = null
    private var work: Job? = null
    private var isFront = false
    private var isWatching = false
    private var record = ""
    private var recordName = ""
    private val hud = Hud()
    private var droppedBefore = 0

    private val pick = registerForActivityResult(ActivityResultContracts.PickVisualMedia()) { uri -> if (uri != null) alone { look(decoded(this, uri)) } }
    private val save = registerForActivityResult(ActivityResultContracts.CreateDocument("application/json")) { uri -> if (uri != null) write(uri) }
    private val allow = registerForActivityResult(ActivityResultContracts.RequestPermission()) { isAllowed ->
        if (isAllowed) watch() else complain(EdgeKitException.Input("the camera is not allowed; allow it in Settings, Apps, Permissions"))
    }

    private val score: Double get() = 0.05 + 0.05 * findViewById<SeekBar>(R.id.score).progress
    private val isTracking: Boolean get() = findViewById<Switch>(R.id.tracking).isChecked
    private val hasBoxes: Boolean get() = model?.manifest?.contract?.task in setOf("detect", "pose", "segment", "obb")

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        camera = Camera(this, findViewById(R.id.preview))
        click(R.id.camera) { if (isWatching) stop() else if (isAllowed()) watch() else allow.launch(Manifest.permission.CAMERA) }
        click(R.id.flip) {
            isFront = !isFront
            watch()
        }
        click(R.id.choose) { pick.launch(PickVisualMediaRequest.Builder().setMediaType(ActivityResultContracts.PickVisualMedia.ImageOnly).build()) }
        click(R.id.example) { alone { example()?.let { look(it) } } }
        click(R.id.selfcheck) { alone { check() } }
        click(R.id.benchmark) { alone { benchmark() } }
        click(R.id.save) { save.launch(recordName) }
        findViewById<Switch>(R.id.tracking).setOnCheckedChangeListener { _, _ -> if (isWatching) watch() }
        findViewById<SeekBar>(R.id.score).setOnSeekBarChangeListener(
            object : SeekBar.OnSeekBarChangeListener {
                override fun onProgressChanged(bar: SeekBar, progress: Int, isByUser: Boolean) = redraw()

                override fun onStartTrackingTouch(bar: SeekBar) = Unit

                /** A stream that runs without tracker finds from the new score on. */
                override fun onStopTrackingTouch(bar: SeekBar) {
                    if (isWatching && !isTracking) watch()
                }
            },
        )
        alone {
            say("The model is being opened.")
            folder = withContext(Dispatchers.IO) { modelFolder(this@MainActivity) }
            val contract = open().manifest.contract
            findViewById<SeekBar>(R.id.score).progress = Math.round((contract.postprocess.scoreThreshold - 0.05) / 0.05).toInt().coerceIn(0, 18)
            show(R.id.settings, hasBoxes)
            show(R.id.example, example() != null)
            say("Ready.")
        }
    }

    override fun onConfigurationChanged(newConfig: Configuration) {
        super.onConfigurationChanged(newConfig)
        camera.turned()
    }

    override fun onStop() {
        stop()
        super.onStop()
    }

    override fun onDestroy() {
        camera.close()
        model?.close()
        super.onDestroy()
    }

    // What the buttons do

    private fun watch() = replace {
        val model = model ?: return@replace
        val frames = camera.frames(isFront)
        watching(true)
        hud.reset()
        droppedBefore = model.dropped
        val contract = model.manifest.contract
        val tracker = if (hasBoxes && isTracking) Tracker.named("bytetrack", contract.trackerOptions) else null
        // A tracker needs the unsure ones, too; what is below the least score is not drawn.
        val thresholds = if (hasBoxes && tracker == null) Thresholds(score) else Thresholds()
        model.results(frames, tracker, thresholds).collect { shown(it) }
    }

    private fun stop() {
        work?.cancel()
        camera.stop()
        if (isWatching) {
            watching(false)
            say("The camera is off.")
        }
    }

    private suspend fun look(picture: Bitmap) {
        val model = model ?: return
        val frame = withContext(Dispatchers.Default) { picture.toFrame() }
        val found = model.run(frame, if (hasBoxes) Thresholds(score) else Thresholds())
        seen = frame
        findViewById<ImageView>(R.id.picture).setImageBitmap(picture)
        show(R.id.picture, true)
        show(R.id.invitation, false)
        hud.reset()
        shown(found)
    }

    private suspend fun check() {
        val model = model ?: return
        prove("Replaying the golden frames.")
        val found = model.selfCheck()
        keep(found.json, "selfcheck", "${found.sentence}\nedgekit evidence add BUNDLE")
    }

    private suspend fun benchmark() {
        val model = model ?: return
        val image = model.manifest.contract.image
        val frame = seen ?: noise(image.width, image.height)
        model.close()
        this.model = null
        try {
            val engine = engine(this)
            val found = Benchmark.run(
                frame, phone(this), thermal = { thermalState(this) }, tell = { prove("Round $it of ${Benchmark.Length().rounds}.") },
            ) { EdgeModel.open(folder, engine) }
            keep(found.json, "benchmark", "Timed ${found.rounds.sumOf { it.total.size }} calls in ${found.rounds.size} rounds.\nedgekit profile import")
        } finally {
            withContext(NonCancellable) { open() }
        }
    }

    /** Open the bundle and run it once: the first call of a model takes longer than the others. */
    private suspend fun open(): EdgeModel {
        val opened = EdgeModel.open(folder, engine(this))
        val image = opened.manifest.contract.image
        opened.run(noise(image.width, image.height))
        model = opened
        title = opened.manifest.name
        return opened
    }

    // What is shown

    private fun shown(found: EdgeResult) {
        result = found
        hud.add(found.timings, SystemClock.elapsedRealtimeNanos() * 1e-9)
        redraw()
    }

    private fun redraw() {
        findViewById<TextView>(R.id.least).text = "${getString(R.string.score)}: %.2f".format(Locale.ROOT, score)
        val found = result ?: return
        findViewById<OverlayView>(R.id.overlay).overlay = Overlay.of(found, score)
        findViewById<TextView>(R.id.found).text = found.lines(score).take(12).joinToString("\n") { "${it.name}  ${it.figure}" }
        say(found.sentence(score))
        val placement = model?.placement
        findViewById<TextView>(R.id.speed).text = listOf(
            "Prepare   ${shown(hud.prepare)} ms", "Infer     ${shown(hud.infer)} ms", "Decode    ${shown(hud.decode)} ms",
            "Frames/s  ${shown(hud.framesPerSecond)}", "Dropped   ${(model?.dropped ?: 0) - droppedBefore}", "Thermal   ${thermalState(this)}",
            "Runs on   ${placement?.unit ?: "–"}, ${placement?.engine ?: "–"}", placement?.reason.orEmpty(),
        ).joinToString("\n")
    }

    private fun shown(value: Double?): String = value?.let { "%.1f".format(Locale.ROOT, it) } ?: "–"

    private fun watching(on: Boolean) {
        isWatching = on
        findViewById<Button>(R.id.camera).setText(if (on) R.string.stop else R.string.start)
        show(R.id.preview, on)
        show(R.id.flip, on)
        show(R.id.picture, false)
        show(R.id.invitation, !on)
        if (!on) {
            result = null
            findViewById<OverlayView>(R.id.overlay).overlay = null
        }
    }

    private fun keep(json: String, what: String, said: String) {
        record = json
        recordName = "${model?.manifest?.name ?: "model"}-$what.json"
        prove("$said $recordName")
        show(R.id.save, true)
    }

    private fun write(uri: Uri) {
        try {
            contentResolver.openOutputStream(uri)?.use { it.write(record.toByteArray()) } ?: throw IOException("nothing to write to")
        } catch (problem: IOException) {
            complain(problem)
        }
    }

    private fun say(text: String) {
        findViewById<TextView>(R.id.status).text = text
    }

    private fun prove(text: String) {
        findViewById<TextView>(R.id.proof).text = text
    }

    private fun complain(error: Throwable) {
        val problem = Problem.of(error)
        findViewById<TextView>(R.id.problem).text = "${problem.title}\n${problem.text}"
        show(R.id.problem, true)
    }

    private fun show(id: Int, isShown: Boolean) {
        findViewById<View>(id).visibility = if (isShown) View.VISIBLE else View.GONE
    }

    private fun click(id: Int, what: () -> Unit) = findViewById<Button>(id).setOnClickListener { what() }

    // Pictures

    /** The picture that came with the bundle. */
    private fun example(): Bitmap? {
        val path = model?.manifest?.files?.map { it.path }?.firstOrNull { it.startsWith("golden/") && it.endsWith(".png") } ?: return null
        return BitmapFactory.decodeFile(File(folder, path).path)
    }

    private fun isAllowed() = checkSelfPermission(Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED

    // One thing at a time

    /** Do something with the model alone. */
    private fun alone(what: suspend () -> Unit) {
        stop()
        replace(what)
    }

    /** Do something after what runs now, which is cancelled. */
    private fun replace(what: suspend () -> Unit) {
        val before = work
        before?.cancel()
        show(R.id.problem, false)
        work = lifecycleScope.launch {
            before?.join()
            try {
                what()
            } catch (cancelled: CancellationException) {
                throw cancelled
            } catch (problem: Exception) {
                if (isWatching) {
                    camera.stop()
                    watching(false)
                }
                complain(problem)
            }
        }
    }
}
