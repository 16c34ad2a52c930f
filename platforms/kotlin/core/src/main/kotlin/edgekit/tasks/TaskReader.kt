package edgekit

/** Thresholds of one call, instead of the contract's. */
data class Thresholds(
    /** Least score, 0..1. */
    val score: Double? = null,
    /** IoU above which NMS drops a box, 0..1. */
    val iou: Double? = null,
)

/** Postprocessing of one contract. */
internal interface TaskReader {
    /** The result in original pixels from raw outputs, NCHW in the contract's order. */
    fun result(outputs: List<Tensor>, mapping: Transform, thresholds: Thresholds): EdgeResult
}

private val tasks: Map<String, (Contract) -> TaskReader> = mapOf(
    "classify" to ::Classify, "detect" to ::Detect, "embed" to ::Embed, "obb" to ::Oriented, "pose" to ::Pose, "segment" to ::Segment,
    "semantic" to ::Semantic,
)

/** The task of a contract. Throws [EdgeKitException.Contract]: unknown task or decoder, or numbers that do not fit. */
internal fun openTask(contract: Contract): TaskReader {
    val open = tasks[contract.task] ?: throw EdgeKitException.Contract("task ${choices(contract.task, tasks.keys)}")
    return open(contract)
}

/**
 * What all tasks share: the decoder of a contract, and which output has which role. [attached] is the role of heads that a
 * task has beside boxes.
 *
 * Throws [EdgeKitException.Contract].
 */
internal class Reading(val contract: Contract, attached: String? = null) {
    val decoder: Decoder = openDecoder(contract.decoder)
    val frame = InputFrame(contract.image.height, contract.image.width, contract.classes.size, contract.skeleton?.names?.size ?: 0)

    /** Places of outputs by role, finest level first. */
    val order: Map<String, List<Int>> =
        contract.outputs.indices.sortedBy { contract.outputs[it].level }.groupBy { contract.outputs[it].role }

    init {
        fun fits(one: Family) = one.task == contract.task || (one.task == "detect" && attached in one.attachments)
        if (!fits(decoder.family)) {
            val able = Family.every.filter(::fits).map { it.name }.sorted().joinToString(", ")
            throw EdgeKitException.Contract("decoder '${contract.decoder.name}' is not one for the task '${contract.task}'; valid: $able")
        }
    }

    /** Raw arrays in the contract's order, by role. Throws [EdgeKitException.Contract]. */
    private fun heads(outputs: List<Tensor>): Heads {
        if (outputs.size != contract.outputs.size) {
            val names = contract.outputs.joinToString(", ") { it.name }
            throw EdgeKitException.Contract("the graph gave ${outputs.size} outputs, the contract names $names")
        }
        for (one in outputs) {
            if (one.data.size.toLong() != one.shape.fold(1L) { product, side -> product * side }) {
                throw EdgeKitException.Contract("an output of ${one.data.size} values says that its shape is ${one.shown}")
            }
        }
        return Heads(order.mapValues { (_, places) -> places.map { outputs[it] } })
    }

    /** Do something with the outputs; what a decoder cannot read is told with their names and shapes. */
    fun <T> reading(outputs: List<Tensor>, work: (Heads) -> T): T {
        val heads = heads(outputs)
        try {
            return work(heads)
        } catch (problem: Misfit) {
            val shapes = contract.outputs.zip(outputs) { spec, output -> "${spec.name} ${output.shown}" }.joinToString(", ")
            throw EdgeKitException.Contract("decoder '${decoder.family.name}' cannot read the outputs $shapes: ${problem.message}")
        }
    }

    /** Decoded boxes in input pixels with a score above the threshold, before NMS. */
    fun candidates(outputs: List<Tensor>, threshold: Double): Candidates {
        val found = reading(outputs) { decoder.run(it, frame, threshold) }
        for (box in found.boxes) if (!box.isFinite) finite(Float.NaN)
        checkFinite(found.scores)
        return found
    }

    /** The same with what a role says of each, where the decoder did not say it itself. */
    fun attaching(role: String, outputs: List<Tensor>, found: Candidates): Candidates {
        if (found.attached != null || role !in decoder.family.attachments) return found
        val attached = reading(outputs) { decoder.attach(role, it, frame, found.anchors) }
        checkFinite(attached.data)
        return found.with(attached)
    }

    /** What is left of candidates after NMS, best first. */
    fun kept(found: Candidates, thresholds: Thresholds, suppress: (Candidates, Float) -> IntArray): Candidates {
        val post = contract.postprocess
        val limit = checked("iou", thresholds.iou ?: post.iouThreshold, 0.0)
        val rows = if (post.nms) suppress(found, limit.toFloat()) else descending(found.scores)
        return found.taking(rows.copyOf(minOf(rows.size, post.maxDetections)))
    }

    /** The least score of a call. Throws [EdgeKitException.Usage]: out of range. */
    fun score(thresholds: Thresholds): Double = checked("score", thresholds.score ?: contract.postprocess.scoreThreshold, -1.0)

    private fun checked(name: String, value: Double, least: Double): Double {
        if (!(value >= least && value <= 1)) throw EdgeKitException.Usage("$name must be 0..1, not $value")
        return value
    }

    /** Candidates after thresholds and NMS of upright boxes, with what [role] says of each. */
    fun boxes(outputs: List<Tensor>, thresholds: Thresholds, role: String? = null): Candidates {
        val found = candidates(outputs, score(thresholds))
        val left = kept(found, thresholds) { some, limit ->
            nonMaximumSuppression(some.boxes, some.scores, some.classIds, limit, contract.postprocess.classAgnostic)
        }
        return if (role == null) left else attaching(role, outputs, left)
    }

    fun objects(kept: Candidates, mapping: Transform) = Objects(kept.boxes.map(mapping::original), kept.scores, kept.classIds)

    fun info(mapping: Transform) = FrameInfo(mapping.size, contract.classes)
}
