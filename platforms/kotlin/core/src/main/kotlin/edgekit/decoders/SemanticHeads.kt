package edgekit

/** Semantic segmentation heads: logits of every class for every cell of a grid. */
internal class SemanticHeads(options: Fields) : Decoder {
    companion object : Family("semantic", task = "semantic") {
        override fun open(options: Fields) = SemanticHeads(options)
    }

    override val family get() = SemanticHeads

    private val isSigmoid = options.read("score", Read.word("softmax", "sigmoid"), or = "softmax") == "sigmoid"

    override fun run(heads: Heads, frame: InputFrame, threshold: Double): Candidates =
        throw EdgeKitException.Contract("decoder 'semantic' gives a label map and no boxes; its task is semantic")

    /** The logits of each class, those of the background 0 where it has no channel. Throws [Misfit], [EdgeKitException.Engine]. */
    fun logits(heads: Heads, classes: Int): List<Plane> {
        val head = heads.only("logits")
        val background = if (isSigmoid) 1 else 0
        val channels = classes - background
        Grid.checkPlanes(head)
        if (head.shape[0] != 1 || head.shape[1] != channels) throw Misfit("${head.shown} where (1, $channels, rows, columns) is needed")
        checkFinite(head.data)
        val (height, width) = head.shape[2] to head.shape[3]
        return (0 until classes).map { id ->
            if (id < background) Plane(FloatArray(width * height), 0, width, height)
            else Plane(head.data, (id - background) * width * height, width, height)
        }
    }
}
