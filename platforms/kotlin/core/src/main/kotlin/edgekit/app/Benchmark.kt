package edgekit

import java.util.Locale
import kotlin.random.Random

/** What is known of the device that a benchmark ran on. */
data class Device(
    /** As its maker calls it: `Pixel 10`. */
    val model: String,
    /** `Android 16`. */
    val system: String,
    val cores: Int,
    /** Bytes. */
    val memory: Long,
)

/** All samples of a benchmark; `edgekit profile import` finds where the warm-up ends and sums them up. */
class Benchmark private constructor(
    private val device: Device,
    private val thermal: List<String>,
    private val frame: Frame,
    private val manifest: Manifest,
    private val placement: Placement,
    val rounds: List<Round>,
) {
    private val id = Random.nextBytes(16).joinToString("") { "%02x".format(Locale.ROOT, it) }
    private val time = now()

    /** The bundle opened anew, its first call, and calls in order, all in milliseconds. */
    class Round(val open: Double) {
        var first = 0.0
            internal set
        val total = ArrayList<Double>()
        val pre = ArrayList<Double>()
        val inference = ArrayList<Double>()
        val post = ArrayList<Double>()
    }

    /** How long each round calls, and how often at least and at most. */
    data class Length(val rounds: Int = 3, val seconds: Double = 1.5, val calls: IntRange = 10..400)

    /** The record as a file for `edgekit profile import RECORD.json`. */
    val json: String
        get() {
            val (contract, image) = manifest.contract to manifest.contract.image
            val bytes = manifest.files.filter { !it.path.startsWith("golden/") }.sumOf { it.bytes }
            val bundle = Json.Object(
                mapOf(
                    "name" to Json.Text(manifest.name), "digest" to Json.Text(manifest.digest), "target" to Json.Text(manifest.target),
                    "precision" to Json.Text(manifest.precision), "engine" to Json.Text(manifest.engine), "task" to Json.Text(contract.task),
                    "size" to whole(listOf(image.height, image.width)), "bytes" to Json.Number("$bytes"),
                    "proof" to (manifest.evidence?.let { Json.Text(it.word) } ?: Json.Null),
                ),
            )
            return Json.Object(
                mapOf(
                    "schema" to Json.Number("1"), "kind" to Json.Text("edgekit app benchmark"),
                    "id" to Json.Text(id), "time" to Json.Text(time),
                    "edgekit" to Json.Text(VERSION), "platform" to Json.Text("kotlin"), "engine" to Json.Text(placement.engine),
                    "device" to Json.Text(placement.unit), "model" to Json.Text(device.model), "system" to Json.Text(device.system),
                    "cores" to Json.Number("${device.cores}"), "memory" to Json.Number("${device.memory}"),
                    "thermal" to Json.List(thermal.map { Json.Text(it) }), "frame" to whole(listOf(frame.width, frame.height)),
                    "bundle" to bundle, "rounds" to Json.List(rounds.map { it.json }),
                ),
            ).canonical
        }

    private val Round.json: Json
        get() = Json.Object(
            mapOf(
                "open" to number(open), "first" to number(first), "total" to list(total), "pre" to list(pre), "inference" to list(inference),
                "post" to list(post),
            ),
        )

    companion object {
        /**
         * Time a bundle on one [frame]. Each round opens it anew by [open] and closes it; no other model should be open
         * meanwhile. [thermal] is asked before and after; [tell] is given the number of each round as it begins, from 1.
         *
         * Throws what opening and running throw.
         */
        suspend fun run(
            frame: Frame, device: Device, length: Length = Length(), thermal: () -> String = { "unknown" }, tell: suspend (Int) -> Unit = {},
            open: suspend () -> EdgeModel,
        ): Benchmark {
            val before = thermal()
            val rounds = ArrayList<Round>()
            lateinit var last: EdgeModel
            for (number in 1..length.rounds) {
                tell(number)
                val begun = System.nanoTime()
                last = open()
                last.use { rounds.add(round(it, frame, length, begun)) }
            }
            return Benchmark(device, listOf(before, thermal()), frame, last.manifest, last.placement, rounds)
        }

        private suspend fun round(model: EdgeModel, frame: Frame, length: Length, begun: Long): Round {
            val opened = System.nanoTime()
            val found = Round((opened - begun) * 1e-6)
            model.run(frame)
            val first = System.nanoTime()
            found.first = (first - opened) * 1e-6
            val end = first + (length.seconds * 1e9).toLong()
            while ((System.nanoTime() < end && found.total.size < length.calls.last) || found.total.size < length.calls.first) {
                val called = System.nanoTime()
                val timings = model.run(frame).timings
                found.total.add((System.nanoTime() - called) * 1e-6)
                found.pre.add(timings.pre)
                found.inference.add(timings.inference)
                found.post.add(timings.post)
            }
            return found
        }

        private fun number(value: Double) = Json.Number("%.6f".format(Locale.ROOT, value))

        private fun list(values: List<Double>) = Json.List(values.map { number(it) })

        private fun whole(values: List<Int>) = Json.List(values.map { Json.Number("$it") })
    }
}
