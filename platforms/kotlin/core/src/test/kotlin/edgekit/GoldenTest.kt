package edgekit

import java.io.File
import kotlin.math.abs
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** The golden set: every case gives what it says, and no planted error passes. */
class GoldenTest {
    private val kinds: Map<String, (Case) -> List<String>> = mapOf(
        "preprocess" to ::preprocess, "decode" to ::decode, "nms" to ::nms, "rle" to ::rle, "track" to ::track, "smooth" to ::smooth,
        "oks_nms" to ::oksNms, "top_down" to ::topDown, "manifest" to ::manifest, "tokenizer" to ::tokenizer, "generation" to ::generation,
    )

    private fun check(kind: String) {
        val cases = Case.stored(kind)
        assertTrue(cases.size > 5 && cases.any { it.mustFail })
        val wrong = cases.mapNotNull { one ->
            val found = kinds.getValue(kind)(one)
            when {
                one.mustFail && found.isEmpty() -> "${one.name}: passes, and must fail"
                !one.mustFail && found.isNotEmpty() -> "${one.name}: ${found.take(3).joinToString("; ")}"
                else -> null
            }
        }
        assertEquals("", wrong.joinToString("\n"))
        println("golden $kind: ${cases.count { !it.mustFail }} pass, ${cases.count { it.mustFail }} planted errors fail")
    }

    @Test fun preprocessing() = check("preprocess")

    @Test fun decoders() = check("decode")

    @Test fun suppression() = check("nms")

    @Test fun masks() = check("rle")

    @Test fun trackers() = check("track")

    @Test fun smoothing() = check("smooth")

    @Test fun suppressionOfPoses() = check("oks_nms")

    @Test fun posesInBoxes() = check("top_down")

    @Test fun manifests() = check("manifest")

    @Test fun tokenizers() = check("tokenizer")

    @Test fun texts() = check("generation")

    @Test fun everyKindIsRead() {
        val folders = File(root, "golden").listFiles().orEmpty().map { it.name }.filter { Case.stored(it).isNotEmpty() }
        assertEquals(kinds.keys.sorted(), folders.sorted())
    }
}

private fun preprocess(one: Case): List<String> {
    val rule = ImageRule.read(one.given["rule"], "")
    val name = one.given["image"].string!!
    val picture = Png.read(File(one.folder, name).readBytes(), name)
    val orientation = Orientation.entries[(one.given["orientation"].number ?: 1.0).toInt() - 1]
    val frame = Frame(
        picture.data, picture.width, picture.height, Frame.Format.RGB, orientation = orientation, mirrored = one.given["mirrored"].flag,
    )
    val (tensor, mapping) = Preprocessor(rule).run(frame.upright())
    val transform = Value.of(
        "scale_x" to values(mapping.scaleX), "scale_y" to values(mapping.scaleY), "offset_x" to values(mapping.offsetX),
        "offset_y" to values(mapping.offsetY), "width" to values(mapping.size.width), "height" to values(mapping.size.height),
        "resized" to values(mapping.resized.width, mapping.resized.height),
    )
    val found = apart(one.expected["transform"], transform, mapOf("scale_x" to 1e-12, "scale_y" to 1e-12))
    // Not one pixel differs from what OpenCV gave on x86, but for strips, which it samples in another way.
    val exact = rule.interpolation == ImageRule.Interpolation.LINEAR && !one.name.startsWith("strip-")
    return found + levelsApart(one, one.expected["tensor"].numbers, tensor.data, rule, exact)
}

/** In how many grey levels tensors of (n, 3, height, width) differ. */
private fun levelsApart(one: Case, expected: DoubleArray, answered: FloatArray, rule: ImageRule, exact: Boolean = false): List<String> {
    if (expected.size != answered.size) return listOf("tensor: ${answered.size} values, not ${expected.size}")
    if (expected.isEmpty()) return emptyList()
    val cells = rule.width * rule.height
    val levels = DoubleArray(expected.size) { abs(expected[it] - answered[it]) / (rule.scale / rule.std[it / cells % 3]) }
    val share = levels.count { it > 0.01 }.toDouble() / levels.size
    val (most, mostOf) = if (exact) 0.0 to 0.0 else one.tolerance("levels") to one.tolerance("share")
    if (levels.max() <= most + 0.01 && share <= mostOf) return emptyList()
    return listOf("tensor: ${levels.max()} levels apart, $share of the values differ")
}

private fun decode(one: Case): List<String> {
    val contract = Contract.read(one.given["contract"], "")
    val outputs = one.given["outputs"].items.map { it.tensor(one.folder) }
    val thresholds = Thresholds(one.given["score"].number, one.given["iou"].number)
    val mapping = Transform.of(contract.image, one.given["width"].number!!.toInt(), one.given["height"].number!!.toInt())
    val result = try {
        openTask(contract).result(outputs, mapping, thresholds)
    } catch (problem: EdgeKitException.Engine) {
        return apart(one.expected, error("not-finite"))
    } catch (problem: EdgeKitException.Contract) {
        return apart(one.expected, error("contract"))
    }
    val limits = mapOf(
        "boxes" to one.tolerance("box"), "scores" to one.tolerance("score"), "vector" to one.tolerance("score"),
        "keypoints" to one.tolerance("keypoint"), "oriented" to one.tolerance("box"), "angles" to one.tolerance("angle"),
    )
    return when (result) {
        is Classification -> {
            val labels = if (result.labels.isEmpty()) values() else Value.Many(result.labels.map { Value.Text(it) })
            val top = result.top(one.expected["top_ids"].numbers.size)
            apart(one.expected, Value.of("scores" to values(result.scores), "top_ids" to values(top), "labels" to labels), limits)
        }
        is Embedding -> apart(one.expected, Value.of("vector" to values(result.vector)), limits)
        is LabelMap -> {
            val expected = one.expected["labels"].numbers
            if (expected.size != result.labels.size) return listOf("labels: ${result.labels.size}, not ${expected.size}")
            val off = expected.indices.count { expected[it] != result.labels[it].toDouble() }
            if (off <= one.tolerance("label_pixels")) emptyList() else listOf("labels: $off pixels differ")
        }
        else -> objectsApart(one, result, limits)
    }
}

private fun objectsApart(one: Case, result: EdgeResult, limits: Map<String, Double>): List<String> {
    val objects = result.objects!!
    val answered = mutableMapOf("boxes" to boxValues(objects.boxes), "scores" to values(objects.scores), "class_ids" to values(objects.classIds))
    val expected = (one.expected as? Value.Named ?: return listOf("no object is expected")).entries.toMutableMap()
    if (result is Poses) answered["keypoints"] = pointValues(result.keypoints)
    if (result is OrientedBoxes) {
        answered["oriented"] = values(result.oriented.flatMap { listOf(it.x, it.y, it.width, it.height) })
        answered["angles"] = values(result.oriented.map { it.angle })
        val all = expected["oriented"]?.numbers ?: DoubleArray(0)
        expected["oriented"] = values(all.filterIndexed { i, _ -> i % 5 != 4 })
        expected["angles"] = values(all.filterIndexed { i, _ -> i % 5 == 4 })
    }
    val masks = expected.remove("masks")
    if (result is Instances && masks != null) {
        if (masks.items.size != result.masks.size) return listOf("${result.masks.size} masks, not ${masks.items.size}")
        for ((mask, document) in result.masks.zip(masks.items)) {
            val (before, now) = Rle(result.info.size, document["counts"].text!!).mask().bitmap(result.info.size) to mask.bitmap(result.info.size)
            val off = before.indices.count { before[it] != now[it] }
            if (off > one.tolerance("mask_pixels")) return listOf("a mask differs in $off pixels")
        }
    }
    return apart(Value.Named(expected), Value.Named(answered), limits)
}

private fun boxes(values: DoubleArray): List<Box> = values.indices.step(4).map {
    Box(values[it].toFloat(), values[it + 1].toFloat(), values[it + 2].toFloat(), values[it + 3].toFloat())
}

private fun boxes(values: List<Double>): List<Box> = boxes(values.toDoubleArray())

private fun keypoints(values: DoubleArray, count: Int): List<List<Keypoint>> = values.indices.step(3 * count).map { first ->
    (0 until count).map { k ->
        val at = first + 3 * k
        Keypoint(values[at].toFloat(), values[at + 1].toFloat(), values[at + 2].toFloat())
    }
}

private fun List<Double>.floats() = FloatArray(size) { this[it].toFloat() }

private fun List<Double>.ints() = IntArray(size) { this[it].toInt() }

private fun nms(one: Case): List<String> {
    val kept = nonMaximumSuppression(
        boxes(one.given["boxes"].array(one.folder).first), one.given["scores"].tensor(one.folder).data,
        one.given["class_ids"].array(one.folder).first.asList().ints(), one.given["iou"].number!!.toFloat(), one.given["class_agnostic"].flag,
    )
    return apart(one.expected, Value.of("kept" to values(kept)))
}

private fun rle(one: Case): List<String> {
    val given = one.given["rle"]
    if (!given.isMissing) {
        val (height, width) = given["size"].flat.map { it.toInt() }
        return try {
            val mask = Rle(Size(width, height), given["counts"].string!!).mask()
            apart(one.expected, Value.of("mask" to values(mask.data.map { it.toInt() })))
        } catch (problem: EdgeKitException.Input) {
            apart(one.expected, error("input"))
        }
    }
    val (values, shape) = one.given["mask"].array(one.folder)
    val size = Size(shape[1], shape[0])
    val mask = Mask(0, 0, size.width, size.height, ByteArray(values.size) { values[it].toInt().toByte() })
    val found = mask.rle(size)
    val runs = Value.of("size" to values(size.height, size.width), "counts" to Value.Text(found.counts))
    val differences = apart(one.expected, Value.of("rle" to runs, "area" to values(mask.area)))
    if (differences.isNotEmpty()) return differences
    val back = Rle(size, one.expected["rle"]["counts"].text!!).mask()
    if (back.rle(size) != found) return listOf("the trimmed mask has other runs")
    return if (back.bitmap(size).contentEquals(mask.data)) emptyList() else listOf("the mask read back is another")
}

private fun track(one: Case): List<String> {
    val tracker = try {
        Tracker.named(one.given["tracker"].string!!, Read.dict(optionValue)(one.given["options"], ""))
    } catch (problem: EdgeKitException.Usage) {
        return apart(one.expected, error("usage"))
    }
    val frames = one.given["frames"].items.map { frame ->
        try {
            seen(tracker, frame)
        } catch (problem: EdgeKitException.Usage) {
            error("usage")
        }
    }
    val limits = mapOf("boxes" to one.tolerance("box"), "scores" to one.tolerance("score"))
    return apart(one.expected, Value.of("frames" to Value.Many(frames)), limits)
}

private fun seen(tracker: Tracker, frame: Json): Value {
    val time = frame["time"].number!!
    val looks = if (frame["embeddings"].isMissing) null else frame["embeddings"].items.map { it.flat.floats() }
    val tracks = if (frame["predict"].flag) tracker.predict(time) else tracker.update(
        boxes(frame["boxes"].flat), frame["scores"].flat.floats(), frame["class_ids"].flat.ints(), time, looks,
    )
    val visible = tracks.visible
    return Value.of(
        "track_ids" to values(visible.map { it.id }), "boxes" to boxValues(visible.map { it.box }), "scores" to values(visible.map { it.score }),
        "class_ids" to values(visible.map { it.classId }), "detections" to values(visible.map { it.detection ?: -1 }),
        "lost" to values(tracks.all.filter { it.state == TrackState.LOST }.map { it.id }),
    )
}

private fun smooth(one: Case): List<String> {
    val options = one.given["options"]
    val filter = try {
        OneEuro(
            options["cutoff"].number ?: 1.0, options["beta"].number ?: 4.0, options["speed_cutoff"].number ?: 1.0,
            options["forget_seconds"].number ?: 1.0,
        )
    } catch (problem: EdgeKitException.Usage) {
        return apart(one.expected, error("usage"))
    }
    val frames = one.given["frames"].items.map { frame ->
        val found = boxes(frame["boxes"].flat)
        val count = frame["keypoints"].items.firstOrNull()?.items?.size ?: 1
        val objects = Objects(found, FloatArray(found.size) { 1f }, IntArray(found.size), frame["track_ids"].flat.ints())
        val info = FrameInfo(Size(640, 480), listOf("arrow"), frame["time"].number)
        val points = keypoints(frame["keypoints"].flat.toDoubleArray(), count)
        val poses = Poses(info, objects, points, Skeleton((0 until count).map { "point $it" }))
        Value.of("keypoints" to pointValues(filter.smooth(poses).keypoints))
    }
    return apart(one.expected, Value.of("frames" to Value.Many(frames)), mapOf("keypoints" to one.tolerance("keypoint")))
}

private fun oksNms(one: Case): List<String> {
    val sigmas = one.given["sigmas"].let { if (it.items.isEmpty()) it.array(one.folder).first.asList() else it.flat }
    val points = keypoints(one.given["keypoints"].array(one.folder).first, sigmas.size)
    val (scores, areas) = one.given["scores"].tensor(one.folder).data to one.given["areas"].tensor(one.folder).data
    val kept = keypointSuppression(points, scores, areas, sigmas, one.given["limit"].number!!)
    val similarity = keypointSimilarity(points, points, areas, sigmas)
    val answer = Value.of("kept" to values(kept), "similarity" to values(similarity))
    return apart(one.expected, answer, mapOf("similarity" to one.tolerance("similarity")))
}

private fun topDown(one: Case): List<String> {
    val contract = Contract.read(one.given["contract"], "")
    val name = one.given["image"].string!!
    val picture = Png.read(File(one.folder, name).readBytes(), name)
    val image = Frame(picture.data, picture.width, picture.height, Frame.Format.RGB).upright()
    val found = boxes(one.given["boxes"].array(one.folder).first)
    val (margin, double) = one.given["margin"].number!! to one.given["double"].number!!
    val outputs = one.given["outputs"].items.map { row -> row.items.map { it.tensor(one.folder) } }.iterator()
    val tensors = ArrayList<Float>()
    val (points, _) = runBlocking {
        posesIn(image, found, margin, openTask(contract), Preprocessor(contract.image)) { tensor ->
            tensors.addAll(tensor.data.asList())
            outputs.next()
        }
    }
    val classIds = one.given["class_ids"].array(one.folder).first.asList().ints()
    val objects = Objects(found, one.given["scores"].tensor(one.folder).data, classIds)
    val size = Size(picture.width, picture.height)
    val poses = joined(FrameInfo(size, listOf("person")), objects, points, contract.skeleton!!, double)
    val transforms = found.map { box ->
        val its = Transform.around(box, margin, contract.image, size)
        Value.of(
            "scale_x" to values(its.scaleX), "scale_y" to values(its.scaleY), "offset_x" to values(its.offsetX), "offset_y" to values(its.offsetY),
        )
    }
    val answered = Value.of(
        "transforms" to if (transforms.isEmpty()) values() else Value.Many(transforms), "boxes" to boxValues(poses.objects.boxes),
        "scores" to values(poses.objects.scores), "class_ids" to values(poses.objects.classIds), "keypoints" to pointValues(poses.keypoints),
    )
    val expected = (one.expected as Value.Named).entries.toMutableMap()
    val wanted = expected.remove("tensors")!!.numbers
    val places = listOf("scale_x", "scale_y", "offset_x", "offset_y").associateWith { 1e-9 }
    val limits = places + mapOf("scores" to one.tolerance("score"), "keypoints" to one.tolerance("keypoint"))
    return apart(Value.Named(expected), answered, limits) + levelsApart(one, wanted, tensors.toFloatArray(), contract.image)
}

private fun manifest(one: Case): List<String> {
    val found = try {
        EdgeBundle.open(File(one.folder, one.given["manifest"].string!!).parentFile).manifest
    } catch (problem: EdgeKitException.Bundle) {
        val alsoGood = one.tolerance["error"].items.mapNotNull { it.text }
        return if (problem.problem.word in alsoGood) emptyList() else apart(one.expected, error(problem.problem.word))
    }
    val engines = found.graphs.map { it.engine ?: found.engine }.distinct()
    fun texts(given: List<String>): Value = if (given.isEmpty()) values() else Value.Many(given.map { Value.Text(it) })
    val answer = Value.of(
        "ok" to Value.Flag(true), "name" to Value.Text(found.name), "target" to Value.Text(found.target),
        "precision" to Value.Text(found.precision), "engines" to texts(engines), "task" to Value.Text(found.contract.task),
        "classes" to texts(found.contract.classes), "size" to values(found.contract.image.height, found.contract.image.width),
        "proven" to Value.Flag(found.proven), "bytes" to values(found.files.sumOf { it.bytes }),
    )
    return apart(one.expected, answer)
}

private fun strings(texts: List<String>): Value = if (texts.isEmpty()) values() else Value.Many(texts.map { Value.Text(it) })

private fun ids(json: Json): List<Int> = json.flat.map { it.toInt() }

/** Texts, ids and pieces of a tokenizer file. */
private fun tokenizer(one: Case): List<String> {
    val answered = LinkedHashMap<String, Value>()
    try {
        val found = Tokenizer.of(File(one.folder, one.given["tokenizer"].string!!).readBytes())
        if (!one.given["texts"].isMissing) {
            answered["texts"] = Value.Many(
                one.given["texts"].items.map { text ->
                    val ids = found.encode(text.string!!)
                    Value.of("ids" to values(ids), "decoded" to Value.Text(found.decode(ids)))
                },
            )
        }
        if (!one.given["ids"].isMissing) {
            answered["ids"] = Value.Many(one.given["ids"].items.map { Value.of("decoded" to Value.Text(found.decode(ids(it["ids"])))) })
        }
        if (!one.given["streams"].isMissing) {
            answered["pieces"] = Value.Many(
                one.given["streams"].items.map { stream ->
                    val stop = stream["stop"].items.map { it.string!! }
                    val whole = cut(found.decode(ids(stream["ids"])), stop)
                    Value.of("pieces" to strings(pieces(found, ids(stream["ids"]), stop)), "whole" to Value.Text(whole))
                },
            )
        }
    } catch (problem: EdgeKitException.Bundle) {
        return apart(one.expected, error("bundle"))
    }
    return apart(one.expected, Value.Named(answered))
}

private fun pieces(tokenizer: Tokenizer, ids: List<Int>, stop: List<String>): List<String> {
    val (decoder, cutter) = tokenizer.pieces() to Cutter(stop)
    val found = ArrayList<String>()
    for (id in ids) {
        if (cutter.ended) break
        found.add(cutter.add(decoder.add(id).orEmpty()))
    }
    return (found + cutter.held).filter { it.isNotEmpty() }
}

/** A language model that is a table (states, vocabulary) of logits; the tokens of a row lead from state to state. */
private class TableGraph(private val table: Tensor, private val begin: Int) : LanguageGraph {
    private var states = listOf(begin)

    private fun logits(): Tensor {
        val vocabulary = table.shape[1]
        return Tensor(FloatArray(states.size * vocabulary) { table.data[states[it / vocabulary] * vocabulary + it % vocabulary] }, listOf(states.size, vocabulary))
    }

    override suspend fun start(embeddings: Tensor): Tensor {
        states = listOf(begin)
        return logits()
    }

    override suspend fun step(tokens: List<Int>): Tensor {
        states = states.zip(tokens) { state, token -> (5 * state + token + 1) % table.shape[0] }
        return logits()
    }

    override fun select(rows: List<Int>) {
        states = rows.map { states[it] }
    }
}

private fun generation(one: Case): List<String> {
    val (given, limits) = one.given to listOf("scores", "probabilities").associateWith { one.tolerance(it) }
    val answer = try {
        val options = GenerationOptions.read(given["options"], "")
        if (!given["draws"].isMissing) {
            val likely = chances(given["scores"].tensor(one.folder).data, options)
            Value.of("probabilities" to values(likely), "tokens" to values(given["draws"].flat.map { drawn(likely, it) }))
        } else {
            val prompt = ids(given["prompt"])
            val tensor = Tensor(FloatArray(prompt.size), listOf(1, prompt.size, 1))
            val graph = TableGraph(given["table"].tensor(one.folder), given["start"].number!!.toInt())
            val made = runBlocking { generate(graph, Prompt(tensor, prompt, ids(given["eos"]), given["pad"].number!!.toInt()), options) }
            val sequences = Value.Many(made.map { Value.of("tokens" to values(it.tokens)) })
            Value.of("sequences" to sequences, "scores" to values(made.map { it.score }))
        }
    } catch (problem: Invalid) {
        error("usage")
    } catch (problem: EdgeKitException.Usage) {
        error("usage")
    } catch (problem: EdgeKitException.Engine) {
        error("engine")
    }
    return apart(one.expected, answer, limits)
}
