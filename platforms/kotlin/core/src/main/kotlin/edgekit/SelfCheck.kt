package edgekit

import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.TimeZone
import kotlin.math.abs
import kotlin.math.hypot
import kotlin.math.sqrt

/**
 * What a device found when it replayed the golden frames of a bundle, as `edgekit evidence add` reads it.
 *
 * The record of a device says so itself and is signed by nobody: it is worth what the way it came by is.
 */
data class SelfCheck(
    /** Name of the bundle, for people. */
    val bundle: String,
    /** SHA-256 of what the bundle's files are: which bundle this is about. */
    val files: String,
    /** UTC, ISO 8601. */
    val time: String,
    val machine: String,
    val engine: String,
    /** How many were replayed. */
    val frames: Int,
    /** With what the `bundle` found when it was converted, or, where it never ran, with its `source`. */
    val compared: String,
    /** In what the frames do not agree. */
    val differences: List<String>,
) {
    /** Whether all frames agree. */
    val agreed: Boolean get() = differences.isEmpty()

    /** The record as a file for `edgekit evidence add BUNDLE RECORD.json`. */
    val json: String
        get() = Json.Object(
            mapOf(
                "schema" to Json.Number("1"), "bundle" to Json.Text(bundle), "files" to Json.Text(files), "time" to Json.Text(time),
                "edgekit" to Json.Text(VERSION), "platform" to Json.Text("kotlin"), "machine" to Json.Text(machine),
                "engine" to Json.Text(engine), "word" to Json.Text("executed"), "operators" to Json.Object(emptyMap()),
                "frames" to Json.Number("$frames"), "compared" to Json.Text(compared), "agreed" to Json.Bool(agreed),
                "differences" to Json.List(differences.map { Json.Text(it) }),
            ),
        ).canonical
}

/** Of this library; records say which wrote them. */
internal const val VERSION = "0.1.0"
private const val FOLDER = "golden"
private const val FILE = "$FOLDER/frames.json"

/** Throws [EdgeKitException.Usage]: no golden frames. [EdgeKitException.Bundle]: they are not valid. [EdgeKitException.Engine]. */
internal suspend fun selfCheck(bundle: EdgeBundle, task: TaskReader, preprocessor: Preprocessor, session: Session): SelfCheck {
    val golden = GoldenFrames.of(bundle)
    val contract = bundle.manifest.contract
    val mapping = Transform.whole(contract.image)
    val differences = ArrayList<String>()
    for (frame in golden.frames) {
        val outputs = session.run(preprocessor.normalise(golden.picture(frame, bundle).data))
        val found = task.result(outputs, mapping, Thresholds(golden.score, golden.iou))
        val said = if (frame.bundle != null) {
            frame.outputsApart(contract.outputs.map { it.name }, outputs) + frame.bundle.apart(found, Margins.SAME, golden.score)
        } else {
            frame.source.apart(found, Margins.SOURCE, golden.score)
        }
        said.mapTo(differences) { "${frame.image}: $it" }
    }
    return SelfCheck(
        bundle = bundle.folder.name,
        files = filesHash(bundle.manifest),
        time = now(),
        machine = "${System.getProperty("os.name")} ${System.getProperty("os.version")} ${System.getProperty("os.arch")}, ${session.placement.unit}",
        engine = session.placement.engine,
        frames = golden.frames.size,
        compared = if (golden.frames[0].bundle == null) "source" else "bundle",
        differences = differences,
    )
}

internal fun now(): String {
    val format = SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss", Locale.ROOT)
    format.timeZone = TimeZone.getTimeZone("UTC")
    return format.format(Date()) + "+00:00"
}

/** SHA-256 of the lines `SHA256 PATH` of all files of a bundle, sorted: what amendments do not change. */
private fun filesHash(manifest: Manifest): String =
    sha256(manifest.files.map { "${it.sha256} ${it.path}\n" }.sorted().joinToString("").toByteArray())

/** How far two results of one picture may be apart and still agree; see `golden_frames.py` of edgekit. */
private class Margins(val score: Float, val iou: Float, val keypoint: Float, val pixels: Double, val cosine: Double) {
    companion object {
        /** Between two runs of one bundle: engines order sums differently, and round INT8 differently on other instructions. */
        val SAME = Margins(0.05f, 0.9f, 0.03f, 0.99, 0.99)

        /** Between a bundle that has never run and its source, which quantisation lies between, too. */
        val SOURCE = Margins(0.25f, 0.7f, 0.1f, 0.95, 0.9)
    }
}

/** Pictures, and what the source and the bundle found in them when it was converted. */
private class GoldenFrames(val score: Double, val iou: Double, val frames: List<GoldenFrame>) {
    fun picture(frame: GoldenFrame, bundle: EdgeBundle): Pixels {
        val (name, rule) = bundle.manifest.name to bundle.manifest.contract.image
        val path = "$FOLDER/${frame.image}"
        fun invalid(what: String) = EdgeKitException.Bundle(BundleProblem.INVALID, "$name: $what; convert it again")
        if (!bundle.lists(path)) throw invalid("the picture '${frame.image}' is not one of the bundle's files")
        val picture = Png.read(bundle.read(path), frame.image)
        if (picture.width != rule.width || picture.height != rule.height) {
            throw invalid("${frame.image} is ${picture.width}x${picture.height}, and the input ${rule.width}x${rule.height}")
        }
        return picture
    }

    companion object {
        fun of(bundle: EdgeBundle): GoldenFrames {
            val name = bundle.manifest.name
            fun invalid(problem: Exception): EdgeKitException {
                val what = "the golden frames are not valid (${problem.message}); convert the model again"
                return EdgeKitException.Bundle(BundleProblem.INVALID, "$name: $what", problem)
            }
            val found = try {
                if (bundle.lists(FILE)) read(Json.parse(bundle.read(FILE)), "") else null
            } catch (problem: Invalid) {
                throw invalid(problem)
            } catch (problem: MalformedJson) {
                throw invalid(problem)
            }
            if (found == null || found.frames.isEmpty()) {
                throw EdgeKitException.Usage("$name: has no golden frames; convert the model again with --data")
            }
            return found
        }

        private val read: Reader<GoldenFrames> = Read.structure { fields ->
            fields.maybe("schema", Read.int(1, 1))
            for (name in listOf("word", "engine")) fields.read(name, Read.string)
            GoldenFrames(fields.read("score", Read.float), fields.read("iou", Read.float), fields.read("frames", Read.list(GoldenFrame.read)))
        }
    }
}

/** Every [step]th value of a raw output. */
private class GoldenOutput(val name: String, val step: Int, val values: List<Double>)

private class GoldenFrame(val image: String, val source: ResultDocument, val bundle: ResultDocument?, private val outputs: List<GoldenOutput>) {
    /** The raw outputs whose values are not those of the golden frame, a sentence each. */
    fun outputsApart(names: List<String>, found: List<Tensor>): List<String> = outputs.mapNotNull { output ->
        val data = found.getOrNull(names.indexOf(output.name))?.data ?: FloatArray(0)
        val mine = data.indices.step(output.step).map { data[it].toDouble() }
        val alike = if (mine.size == output.values.size) cosine(output.values, mine) else -1.0
        if (alike >= Margins.SAME.cosine) null else "output '${output.name}': cosine ${shown(alike, 4)}"
    }

    companion object {
        private val output: Reader<GoldenOutput> = Read.structure { fields ->
            GoldenOutput(
                fields.read("name", Read.string), fields.read("step", Read.int(1)), fields.read("values", Read.list(Read.float, most = 256)),
            )
        }

        val read: Reader<GoldenFrame> = Read.structure { fields ->
            GoldenFrame(
                fields.read("image", Read.string), fields.read("source", ResultDocument.read),
                fields.read("bundle", Read.nullable(ResultDocument.read), or = null), fields.read("outputs", Read.list(output), or = emptyList()),
            )
        }
    }
}

private fun cosine(one: List<Double>, other: List<Double>): Double {
    val product = one.zip(other).sumOf { (a, b) -> a * b }
    val (first, second) = one.sumOf { it * it } to other.sumOf { it * it }
    return if (first == 0.0 && second == 0.0) 1.0 else product / sqrt(first * second)
}

private fun shown(value: Number, digits: Int): String = "%.${digits}f".format(Locale.ROOT, value.toDouble())

/** One object of a stored result. */
private class Row(
    val box: List<Double>, val score: Double, val classId: Int, val keypoints: List<List<Double>>?, val counts: String?, val oriented: List<Double>?,
) {
    companion object {
        private val mask: Reader<String> = Read.structure { fields ->
            fields.read("size", Read.listOf(2, Read.int()))
            fields.read("counts", Read.string)
        }

        val read: Reader<Row> = Read.structure { fields ->
            fields.maybe("name", Read.string)
            fields.maybe("track_id", Read.long)
            Row(
                fields.read("box", Read.listOf(4, Read.float)), fields.read("score", Read.float), fields.read("class_id", Read.int()),
                fields.maybe("keypoints", Read.list(Read.listOf(3, Read.float))), fields.maybe("mask", mask),
                fields.maybe("oriented", Read.listOf(5, Read.float)),
            )
        }
    }
}

/** The document of a result; which fields are there depends on its kind. */
private class ResultDocument(
    val size: Size,
    val detections: List<Row>?,
    val scores: List<Double>?,
    val classIds: List<Int>?,
    val lengths: List<Int>?,
    val vector: List<Double>?,
) {
    /** In what another result of the picture differs by more than the margins, a sentence each. */
    fun apart(found: EdgeResult, margins: Margins, threshold: Double): List<String> = when (found) {
        is Classification -> scoresApart(found, margins)
        is LabelMap -> labelsApart(found, margins)
        is Embedding -> {
            if (vector?.size != found.vector.size) throw otherTask()
            val alike = cosine(vector, found.vector.map { it.toDouble() })
            if (alike >= margins.cosine) emptyList() else listOf("the cosine of the vectors is ${shown(alike, 3)}")
        }
        is Detections, is Poses, is Instances, is OrientedBoxes -> {
            val before = (detections ?: throw otherTask()).map { One.of(it, size) }
            val now = One.all(found)
            val (least, classes) = threshold.toFloat() + margins.score to found.info.classes
            alone(before, now, margins, least, classes).map { "$it is missing" } + alone(now, before, margins, least, classes).map { "$it is new" }
        }
    }

    private fun scoresApart(found: Classification, margins: Margins): List<String> {
        if (scores.isNullOrEmpty() || scores.size != found.scores.size) throw otherTask()
        val worst = scores.indices.maxBy { abs(scores[it] - found.scores[it]) }
        if (abs(scores[worst] - found.scores[worst]) <= margins.score) return emptyList()
        return listOf("${found.info.classes[worst]} has ${shown(found.scores[worst], 3)}, not ${shown(scores[worst], 3)}")
    }

    private fun labelsApart(found: LabelMap, margins: Margins): List<String> {
        if (classIds == null || lengths == null || classIds.size != lengths.size) throw otherTask()
        if (lengths.sumOf { it.toLong() } != found.labels.size.toLong()) throw otherTask()
        var at = 0
        var same = 0
        for ((classId, length) in classIds.zip(lengths)) repeat(length) { if (found.labels[at++].toInt() and 0xFFFF == classId) same++ }
        val share = same.toDouble() / found.labels.size
        return if (share >= margins.pixels) emptyList() else listOf("${shown(100 * share, 1)}% of the pixels have the same class")
    }

    private fun otherTask() =
        EdgeKitException.Bundle(BundleProblem.INVALID, "the golden frames are of another task than the bundle; convert the model again")

    companion object {
        val read: Reader<ResultDocument> = Read.structure { fields ->
            fields.maybe("image", Read.string)
            for (name in listOf("skeleton", "shares")) fields.maybe(name, Read.obj)
            fields.maybe("top", Read.list(Read.obj))
            fields.maybe("multi_label", Read.bool)
            fields.maybe("threshold", Read.float)
            ResultDocument(
                Size(fields.read("width", Read.int(0, 1 shl 20)), fields.read("height", Read.int(0, 1 shl 20))),
                fields.maybe("detections", Read.list(Row.read)), fields.maybe("scores", Read.list(Read.float)),
                fields.maybe("class_ids", Read.list(Read.int())), fields.maybe("lengths", Read.list(Read.int(0), most = 1 shl 20)),
                fields.maybe("vector", Read.list(Read.float)),
            )
        }
    }
}

/** The certain objects of one result that have no partner in the other. */
private fun alone(some: List<One>, others: List<One>, margins: Margins, least: Float, classes: List<String>): List<String> =
    some.filter { one -> one.score >= least && others.none { one.isLike(it, margins) } }.map { one ->
        val name = classes.getOrNull(one.classId) ?: "class ${one.classId}"
        val box = listOf(one.box.x1, one.box.y1, one.box.x2, one.box.y2).joinToString(", ") { shown(it, 0) }
        "$name ${shown(one.score, 3)} at [$box]"
    }

/** One object of a result. */
private class One(
    val box: Box, val score: Float, val classId: Int,
    val keypoints: List<Keypoint>? = null, val mask: Mask? = null, val oriented: OrientedBox? = null,
) {
    fun isLike(other: One, margins: Margins): Boolean = when {
        classId != other.classId || abs(score - other.score) > margins.score -> false
        boxIoU(listOf(box), listOf(other.box))[0] < margins.iou -> false
        oriented != null && other.oriented != null -> oriented.isLike(other.oriented, margins)
        keypoints != null && other.keypoints != null -> keypointsAway(keypoints, other.keypoints) <= margins.keypoint
        mask != null && other.mask != null -> mask.iou(other.mask) >= margins.iou - 0.05f
        else -> true
    }

    /** Mean distance of keypoints in sizes of the box. */
    private fun keypointsAway(mine: List<Keypoint>, theirs: List<Keypoint>): Double {
        if (mine.size != theirs.size) return Double.POSITIVE_INFINITY
        val size = sqrt(maxOf(box.width, 1f) * maxOf(box.height, 1f))
        return mine.zip(theirs).sumOf { (a, b) -> hypot(a.x - b.x, a.y - b.y).toDouble() } / mine.size / size
    }

    companion object {
        fun of(row: Row, size: Size): One {
            val (x1, y1, x2, y2) = row.box.map { it.toFloat() }
            return One(
                Box(x1, y1, x2, y2), row.score.toFloat(), row.classId,
                keypoints = row.keypoints?.map { (x, y, score) -> Keypoint(x.toFloat(), y.toFloat(), score.toFloat()) },
                mask = row.counts?.let { Rle(size, it).mask() },
                oriented = row.oriented?.map { it.toFloat() }?.let { (x, y, width, height, angle) -> OrientedBox(x, y, width, height, angle) },
            )
        }

        fun all(result: EdgeResult): List<One> {
            val objects = result.objects ?: return emptyList()
            return objects.boxes.mapIndexed { i, box ->
                One(
                    box, objects.scores[i], objects.classIds[i], (result as? Poses)?.keypoints?.get(i), (result as? Instances)?.masks?.get(i),
                    (result as? OrientedBoxes)?.oriented?.get(i),
                )
            }
        }
    }
}

/** Whether two oriented boxes have nearly the same corners: all within the share of the shorter side that the IoU leaves. */
private fun OrientedBox.isLike(other: OrientedBox, margins: Margins): Boolean {
    val most = (1 - margins.iou) / 2 * maxOf(minOf(width, height), 1f)
    return corners.all { (x, y) -> other.corners.any { (theirX, theirY) -> hypot(x - theirX, y - theirY) <= most } }
}

/** Intersection over union; 1 of two empty masks. */
private fun Mask.iou(other: Mask): Float {
    val (mine, theirs) = area to other.area
    if (mine == 0 && theirs == 0) return 1f
    var shared = 0
    for (y in maxOf(top, other.top) until minOf(top + height, other.top + other.height)) {
        for (x in maxOf(left, other.left) until minOf(left + width, other.left + other.width)) {
            val own = data[(y - top) * width + x - left].toInt()
            if (own != 0 && other.data[(y - other.top) * other.width + x - other.left].toInt() != 0) shared++
        }
    }
    return shared.toFloat() / (mine + theirs - shared)
}
