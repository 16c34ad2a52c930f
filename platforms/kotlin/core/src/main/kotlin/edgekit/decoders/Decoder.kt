package edgekit

/** One family of heads: raw outputs become candidates in input pixels. A decoder's properties are its options. */
internal interface Decoder {
    val family: Family

    /** Decoded boxes with a score above the threshold, before NMS. Throws [Misfit], [EdgeKitException.Engine]. */
    fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates

    /** What a role says of candidates at these places in the network's own order. Throws [Misfit]. */
    fun attach(role: String, heads: Heads, frame: InputFrame, anchors: IntArray): Attached =
        throw Misfit("decoder '${family.name}' reads no $role")
}

/** What is known of a decoder without its options. */
internal abstract class Family(
    val name: String,
    /** The task whose results the decoder gives whole. */
    val task: String = "detect",
    /** Roles of what other tasks have beside the boxes. */
    val attachments: List<String> = emptyList(),
) {
    /** Read and check the options of a contract; throws [Invalid]. */
    abstract fun open(options: Fields): Decoder

    companion object {
        val every: List<Family> by lazy {
            listOf(
                AnchorFree, Anchors, CenterNet, Classes, Decoded, Distances, FastestDet, GridHeads, HeatMaps, Keypoints, MoveNet, Queries,
                SemanticHeads, SimCC, Ssd, Vectors,
            )
        }
    }
}

/** The decoder of a contract with its options. Throws [EdgeKitException.Contract]: no such decoder, or a wrong option. */
internal fun openDecoder(spec: DecoderSpec): Decoder {
    val family = Family.every.firstOrNull { it.name == spec.name }
        ?: throw EdgeKitException.Contract("decoder ${choices(spec.name, Family.every.map { it.name }.sorted())}")
    val fields = Fields(spec.options, "")
    try {
        return family.open(fields).also { fields.finish() }
    } catch (problem: Invalid) {
        val valid = if (fields.names.isEmpty()) "none" else fields.names.joinToString(", ")
        throw EdgeKitException.Contract("decoder '${spec.name}': ${problem.message}; its options are: $valid")
    }
}

/** Heads of a shape that a decoder cannot read; becomes an error of the contract with their names. */
internal class Misfit(message: String) : Exception(message)

/** What a decoder is given of its contract: input size in pixels, number of classes and of keypoints. */
internal class InputFrame(val height: Int, val width: Int, val classes: Int, val keypoints: Int)

/** What a task has beside each box: [width] numbers a row. */
internal class Attached(val data: FloatArray, val width: Int) {
    fun row(i: Int): FloatArray = data.copyOfRange(i * width, (i + 1) * width)

    fun taking(rows: IntArray): Attached {
        val taken = FloatArray(rows.size * width)
        rows.forEachIndexed { to, from -> data.copyInto(taken, to * width, from * width, (from + 1) * width) }
        return Attached(taken, width)
    }
}

/** Decoded candidates of one frame, in input pixels. */
internal class Candidates(
    val boxes: List<Box>,
    val scores: FloatArray,
    val classIds: IntArray,
    /** The place in the network's own order of predictions. */
    val anchors: IntArray,
    val attached: Attached? = null,
) {
    fun taking(rows: IntArray) =
        Candidates(boxes.taking(rows), scores.taking(rows), classIds.taking(rows), anchors.taking(rows), attached?.taking(rows))

    fun with(attached: Attached) = Candidates(boxes, scores, classIds, anchors, attached)
}

/** Candidates that are found one after the other. */
internal class Found {
    private val boxes = ArrayList<Box>()
    private val scores = ArrayList<Float>()
    private val classIds = ArrayList<Int>()
    private val anchors = ArrayList<Int>()

    fun add(box: Box, score: Float, classId: Int, anchor: Int) {
        boxes.add(box)
        scores.add(score)
        classIds.add(classId)
        anchors.add(anchor)
    }

    /** A box from its centre and size. */
    fun add(x: Float, y: Float, width: Float, height: Float, score: Float, classId: Int, anchor: Int) {
        val halfWidth = width * 0.5f
        val halfHeight = height * 0.5f
        add(Box(x - halfWidth, y - halfHeight, x + halfWidth, y + halfHeight), score, classId, anchor)
    }

    fun candidates(attached: Attached? = null) =
        Candidates(boxes, scores.toFloatArray(), classIds.toIntArray(), anchors.toIntArray(), attached)
}

/** Raw outputs by role, one tensor per level from the finest stride to the coarsest. */
internal class Heads(private val byRole: Map<String, List<Tensor>>) {
    fun has(role: String): Boolean = role in byRole

    /** The heads of a role, finest first. Throws [Misfit]: none has it, or another number of levels. */
    fun levels(role: String, count: Int? = null): List<Tensor> {
        val found = byRole[role] ?: throw Misfit("no output has the role '$role'")
        if (count != null && found.size != count) {
            throw Misfit("${found.size} outputs of the role '$role' where $count are needed, one a level")
        }
        return found
    }

    /** The only head of a role. */
    fun only(role: String): Tensor = levels(role, 1)[0]
}
