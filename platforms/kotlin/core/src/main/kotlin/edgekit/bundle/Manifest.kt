package edgekit

/** Everything a bundle says about itself. It is the only source of layouts, names, shapes, classes and thresholds. */
class Manifest private constructor(fields: Fields) {
    init {
        fields.read("schema", Read.long, or = SCHEMA.toLong())
    }

    /** Version of edgekit that wrote the bundle. */
    val edgekit: String = fields.read("edgekit", Read.string)
    val name: String = fields.read("name", Read.string)
    val target: String = fields.read("target", Read.string)
    val precision: String = fields.read("precision", Read.string)
    val engine: String = fields.read("engine", Read.string)
    val graphs: List<Graph> = fields.read("graphs", Read.list(Graph.read))
    val contract: Contract = fields.read("contract", Contract.read)

    /** What was measured when the bundle was converted; null where nothing was. */
    val evidence: Evidence? = fields.read("evidence", Read.nullable(Evidence.read), or = null)

    /** Whether that evidence passed its gate. */
    val proven: Boolean = fields.read("proven", Read.bool, or = false)
    val files: List<File> = fields.read("files", Read.list(File.read), or = emptyList())
    internal val digest: String = fields.read("digest", Read.string, or = "")

    /** Whether the bundle takes further batches and input sizes. This library runs the contract's. */
    internal val hasVariants: Boolean = fields.maybe("variants", Read.list(Unread.variant)) != null

    init {
        fields.read("origin", Unread.origin)
        fields.read("toolchain", Read.dict(Read.string))
        fields.maybe("options", Read.obj)
        fields.maybe("calibration", Read.nullable(Unread.calibration))
        fields.maybe("amendments", Read.list(Unread.amendment))
        fields.maybe("executions", Read.list(Unread.execution))
    }

    /** What the bundle is, in a few words: `shapes onnx int8, detect, 7 classes, 256x256, proven`. */
    val summary: String
        get() {
            val classes = if (contract.classes.isEmpty()) "" else "${contract.classes.size} classes, "
            val (height, width) = contract.image.height to contract.image.width
            return "$name $target $precision, ${contract.task}, $classes${height}x$width, ${if (proven) "proven" else "unproven"}"
        }

    /** A file of a bundle: relative path with forward slashes, size in bytes, SHA-256. */
    data class File(val path: String, val bytes: Long, val sha256: String) {
        internal companion object {
            val read: Reader<File> = Read.structure { fields ->
                File(fields.read("path", Read.string), fields.read("bytes", Read.long), fields.read("sha256", Read.string))
            }
        }
    }

    companion object {
        /** The newest manifest layout that this library reads. */
        const val SCHEMA = 1

        internal const val FILE_NAME = "manifest.json"
        internal val read: Reader<Manifest> = Read.structure { Manifest(it) }
    }
}

/** One network of a bundle: its files (the first is the one an engine opens), inputs and outputs. */
class Graph internal constructor(
    val name: String,
    val files: List<String>,
    val inputs: List<TensorSpec>,
    val outputs: List<TensorSpec>,
    /** The engine of this graph where it is not the bundle's. */
    val engine: String?,
) {
    internal companion object {
        val read: Reader<Graph> = Read.structure { fields ->
            val graph = Graph(
                fields.read("name", Read.string, or = "model"),
                fields.read("files", Read.list(Read.string)),
                fields.read("inputs", Read.list(TensorSpec.read)),
                fields.read("outputs", Read.list(TensorSpec.read)),
                fields.maybe("engine", Read.string),
            )
            fields.maybe("report", Read.dict(Unread.stringOrNumber))
            fields.maybe("speed", Unread.speed)
            if (graph.files.isEmpty() || graph.inputs.isEmpty() || graph.outputs.isEmpty()) {
                throw Invalid("graph '${graph.name}' must have files, inputs and outputs", fields.path)
            }
            graph
        }
    }
}

/** An input or output of a file; -1 in its shape where any size goes. */
class TensorSpec internal constructor(val name: String, val shape: List<Long>, val dtype: String, val layout: Layout) {
    enum class Layout { NCHW, NHWC }

    internal companion object {
        val read: Reader<TensorSpec> = Read.structure { fields ->
            val spec = TensorSpec(
                fields.read("name", Read.string),
                fields.read("shape", Read.list(Read.long)),
                fields.read("dtype", Read.string, or = "float32"),
                fields.read("layout", Read.word(), or = Layout.NCHW),
            )
            fields.maybe("scale", Read.float)
            fields.maybe("zero_point", Read.long)
            spec
        }
    }
}

/** The measured evidence that a bundle gives its source's results, in short. */
class Evidence internal constructor(
    /** `executed`, `emulated`, `interpreted`, `reference` or `compiled`: exactly what ran. */
    val word: String,
    /** The engine that it ran with. */
    val engine: String,
    /** Photographs that were looked at. */
    val images: Long,
    val passed: Boolean,
    /** In what the gate was not passed. */
    val failures: List<String>,
) {
    internal companion object {
        val read: Reader<Evidence> = Read.structure { fields ->
            val found = Evidence(
                fields.read("word", Unread.word),
                fields.read("engine", Read.string),
                fields.read("images", Read.long),
                fields.read("passed", Read.bool),
                fields.read("failures", Read.list(Read.string), or = emptyList()),
            )
            Unread.restOfEvidence(fields)
            found
        }
    }
}

/** Parts of a manifest that are checked, because a manifest is valid as a whole or not at all, and not kept. */
private object Unread {
    val word = Read.word("executed", "emulated", "interpreted", "reference", "compiled")

    val stringOrNumber: Reader<Unit> = { node, path ->
        if (node !is Json.Text && node !is Json.Number) throw Invalid("Expected `str | int | float`", path)
    }

    val origin: Reader<Unit> = Read.structure { fields ->
        for (name in listOf("kind", "name", "sha256")) fields.read(name, Read.string)
        for (name in listOf("notes", "cut")) fields.maybe(name, Read.list(Read.string))
        fields.maybe("rewrites", Read.dict(Read.long))
    }

    val calibration: Reader<Unit> = Read.structure { fields ->
        for (name in listOf("count", "seed")) fields.read(name, Read.long)
        for (name in listOf("method", "sha256")) fields.read(name, Read.string)
        fields.maybe("held", Read.long)
        fields.maybe("images", Read.list(Read.string))
    }

    val speed: Reader<Unit> = Read.structure { fields ->
        fields.read("ratio", Read.positive)
        for (name in listOf("low", "high")) fields.read(name, Read.float)
        for (name in listOf("rounds", "threads")) fields.read(name, Read.long)
        for (name in listOf("of", "instructions", "engine")) fields.read(name, Read.string)
    }

    fun restOfEvidence(fields: Fields) {
        fields.read("views", Read.long)
        for (name in listOf("images_sha256", "reference")) fields.read(name, Read.string)
        fields.read("compared", Read.word("detections", "candidates", "texts", "nothing"))
        fields.read("decoded", Read.nullable(agreement))
        fields.read("outputs", Read.list(output))
        fields.read("gate", gate)
        fields.maybe("placement", Read.dict(Read.long))
        fields.maybe("recipe", Read.string)
        fields.maybe("recipes", Read.dict(Read.float))
        fields.maybe("budget", Read.nullable(budget))
        fields.maybe("texts", Read.nullable(texts))
        fields.maybe("accuracy", accuracy)
        fields.maybe("control", control)
    }

    val output: Reader<Unit> = Read.structure { fields ->
        fields.read("name", Read.string)
        for (name in listOf("cosine", "max_error", "mean_error")) fields.read(name, Read.float)
    }

    val gate: Reader<Unit> = Read.structure { fields ->
        for (name in listOf("iou", "matched", "score_drift")) fields.read(name, Read.float)
        for (name in listOf("extra", "small", "medium", "large", "angle")) fields.maybe(name, Read.float)
    }

    val bySize: Reader<Unit> = Read.structure { fields ->
        fields.read("detections", Read.int(0))
        fields.read("matched", Read.float)
    }

    val agreement: Reader<Unit> = Read.structure { fields ->
        val numbers = listOf("score_floor", "iou", "matched", "score_drift", "score_drift_max", "extra", "top_score", "top_score_source")
        for (name in numbers) fields.read(name, Read.float)
        for (name in listOf("detections", "class_flips")) fields.read(name, Read.long)
        fields.read("matched_at", Read.dict(Read.float))
        fields.maybe("measure", Read.string)
        for (name in listOf("pixels", "miou", "angle")) fields.maybe(name, Read.float)
        fields.maybe("by_size", Read.dict(bySize))
    }

    val texts: Reader<Unit> = Read.structure { fields ->
        fields.read("measure", Read.word("tokens", "decisions"))
        for (name in listOf("positions", "answers")) fields.read(name, Read.long)
        for (name in listOf("matched", "score_drift", "score_drift_max", "identical")) fields.read(name, Read.float)
    }

    val budget: Reader<Unit> = Read.structure { fields ->
        for (name in listOf("max_drop", "before", "drop", "milliseconds_before", "milliseconds")) fields.read(name, Read.float)
        for (name in listOf("bytes_before", "bytes")) fields.read(name, Read.long)
        fields.read("by", Read.string)
        fields.read("kept", Read.bool)
        fields.read("floats", Read.list(Read.string))
    }

    val accuracy: Reader<Unit> = Read.structure { fields ->
        fields.read("measure", Read.string)
        for (name in listOf("source", "bundle")) fields.read(name, Read.float)
    }

    val control: Reader<Unit> = Read.structure { fields ->
        fields.read("damage", Read.string)
        fields.read("failures", Read.list(Read.string))
    }

    val variant: Reader<Unit> = Read.structure { fields ->
        val batch = fields.read("batch", Read.int(1, 1 shl 10))
        val size = fields.read("size", Read.listOf(2, Read.long))
        fields.maybe("evidence", Read.nullable(Evidence.read))
        if (size.min() < 1 || size.max() > ImageRule.LARGEST || batch * size[0] * size[1] > ImageRule.MOST_PIXELS) {
            throw Invalid("a batch of $batch at $size must have at most ${ImageRule.MOST_PIXELS} pixels in all", fields.path)
        }
    }

    val change: Reader<Unit> = Read.structure { fields ->
        fields.read("name", Read.string)
        fields.read("before", Read.nullable(optionValue))
        fields.read("after", optionValue)
    }

    val amendment: Reader<Unit> = Read.structure { fields ->
        fields.read("time", Read.string)
        fields.read("changes", Read.list(change))
    }

    val execution: Reader<Unit> = Read.structure { fields ->
        for (name in listOf("time", "platform", "machine", "engine", "compared")) fields.read(name, Read.string)
        fields.read("word", word)
        fields.read("frames", Read.long)
    }
}
