package edgekit

/** What goes into a graph and what comes out of it. */
class Contract internal constructor(
    /** `detect`, `pose`, `segment`, `obb`, `classify`, `semantic` or `embed`. */
    val task: String,
    val image: ImageRule,
    val classes: List<String>,
    val decoder: DecoderSpec,
    val outputs: List<OutputSpec>,
    val postprocess: Postprocess,
    /** Of poses. */
    val skeleton: Skeleton?,
    /** Options of trackers that were fitted to this model: texts, numbers (as `Double`) and truth values. */
    val trackerOptions: Map<String, Any>,
    /** What a vision-language model is beyond its image rule; see [VisionLanguage]. */
    internal val language: Language?,
) {
    internal companion object {
        private val className: Reader<String> = { node, path ->
            Read.string(node, path).also {
                if (it.codePointCount(0, it.length) > 1000) throw Invalid("Expected `str` of length <= 1000", path)
            }
        }

        val read: Reader<Contract> = Read.structure { fields ->
            Contract(
                task = fields.read("task", Read.string, or = "detect"),
                image = fields.read("image", ImageRule.read),
                classes = fields.read("classes", Read.list(className, most = 1 shl 17), or = emptyList()),
                decoder = fields.read("decoder", DecoderSpec.read, or = DecoderSpec("", Json.Object(emptyMap()))),
                outputs = fields.read("outputs", Read.list(OutputSpec.read), or = emptyList()),
                postprocess = fields.read("postprocess", Postprocess.read, or = Postprocess()),
                skeleton = fields.read("skeleton", Read.nullable(Skeleton.read), or = null),
                trackerOptions = fields.read("tracker_options", Read.dict(optionValue), or = emptyMap()),
                language = fields.read("language", Read.nullable(Language.read), or = null),
            )
        }
    }
}

/** What a vision-language model is beyond its image rule. */
internal class Language private constructor(fields: Fields) {
    val family: String = fields.read("family", Read.word("opt", "t5", "retrieval"))

    /** Tokens that an image becomes, and the id that stands for each. */
    val queries: Int = fields.read("queries", Read.int(1, 1 shl 16))
    val image: Int = fields.read("image", number, or = 0)
    val pad: Int = fields.read("pad", number, or = 0)
    val start: Int = fields.read("start", number, or = 0)
    val positions: Int = fields.read("positions", number, or = 0)
    val eos: List<Int> = fields.read("eos", Read.list(number, most = 1 shl 10), or = emptyList())
    val layers: Int = fields.read("layers", Read.int(0, 1 shl 10), or = 0)
    val heads: Int = fields.read("heads", Read.int(0, 1 shl 16), or = 0)
    val headSize: Int = fields.read("head_size", Read.int(0, 1 shl 16), or = 0)
    val width: Int = fields.read("width", Read.int(0, 1 shl 16), or = 0)
    val prompts: Map<String, String> = fields.read("prompts", Read.dict(Read.string), or = emptyMap())
    val generation: GenerationOptions = fields.read("generation", GenerationOptions.read, or = GenerationOptions())

    val isRetrieval: Boolean get() = family == "retrieval"

    init {
        val numbers = layers.toLong() * heads * headSize
        if (numbers > 1 shl 22) {
            throw Invalid("layers, heads and head_size make $numbers numbers a token, above the ${1 shl 22} of a cache", fields.path)
        }
    }

    internal companion object {
        private val number = Read.int(0)
        val read: Reader<Language> = Read.structure { Language(it) }
    }
}

/** The value of an option of a tracker: a `Boolean`, a `Double` or a `String`. */
internal val optionValue: Reader<Any> = { node, path ->
    when (node) {
        is Json.Bool -> node.value
        is Json.Number -> node.value
        is Json.Text -> node.value
        else -> throw Invalid("Expected `bool | int | float | str`", path)
    }
}

/** How a photograph becomes the input tensor: `(level * scale - mean) / std` after resizing. */
class ImageRule private constructor(fields: Fields) {
    enum class Resize { LETTERBOX, STRETCH, CROP }
    enum class Color { RGB, BGR }
    enum class Interpolation { LINEAR, BILINEAR, BICUBIC }
    enum class Align { CENTER, CORNER }

    private val sides: List<Long> = fields.read("size", Read.listOf(2, Read.long))
    val height: Int get() = sides[0].toInt()
    val width: Int get() = sides[1].toInt()
    val resize: Resize = fields.read("resize", Read.word(), or = Resize.LETTERBOX)
    val color: Color = fields.read("color", Read.word(), or = Color.RGB)
    val scale: Double = fields.read("scale", Read.float, or = 1.0 / 255)
    val mean: List<Double> = fields.read("mean", Read.listOf(3, Read.float), or = listOf(0.0, 0.0, 0.0))
    val std: List<Double> = fields.read("std", Read.listOf(3, Read.float), or = listOf(1.0, 1.0, 1.0))

    /** Levels around a letterboxed picture, three in the order of [color]. */
    val pad: List<Int> = fields.read("pad", levels, or = listOf(114, 114, 114))
    val crop: Double = fields.read("crop", Read.float, or = 1.0)
    val interpolation: Interpolation = fields.read("interpolation", Read.word(), or = Interpolation.LINEAR)
    val align: Align = fields.read("align", Read.word(), or = Align.CENTER)

    init {
        problem()?.let { throw Invalid(it, fields.path) }
    }

    private fun problem(): String? = when {
        sides.min() < 1 -> "size must be two positive numbers (height, width), not $sides"
        sides.max() > LARGEST || sides[0] * sides[1] > MOST_PIXELS ->
            "size must be at most $LARGEST a side and $MOST_PIXELS pixels in all, not $sides"
        pad.any { it !in 0..255 } -> "pad must be 0..255, not $pad"
        std.min() <= 0 -> "std must be positive, not $std"
        scale <= 0 -> "scale must be positive, not $scale"
        !(crop > 0 && crop <= 1) -> "crop must be above 0 and at most 1, not $crop"
        crop < 1 && resize != Resize.CROP -> "crop must be 1 with resize: ${resize.name.lowercase()}, not $crop"
        align != Align.CENTER && resize != Resize.LETTERBOX ->
            "align must be left out with resize: ${resize.name.lowercase()}, not ${align.name.lowercase()}: only a letterbox has padding"
        else -> null
    }

    internal companion object {
        /** The longest side of an input in pixels, and the most pixels. */
        const val LARGEST = 1 shl 14
        const val MOST_PIXELS = 1 shl 26

        private val levels: Reader<List<Int>> = { node, path ->
            if (node is Json.List) Read.listOf(3, Read.int())(node, path) else Read.int()(node, path).let { listOf(it, it, it) }
        }

        val read: Reader<ImageRule> = Read.structure { ImageRule(it) }
    }
}

/** Which decoder turns raw heads into candidates, with its numbers. */
class DecoderSpec internal constructor(val name: String, internal val options: Json.Object) {
    internal companion object {
        val read: Reader<DecoderSpec> = Read.structure { fields ->
            DecoderSpec(fields.read("name", Read.string), fields.read("options", Read.obj, or = Json.Object(emptyMap())))
        }
    }
}

/** One output of the graph: [role] is the decoder's word for it, [level] counts strides from the finest. */
data class OutputSpec(val name: String, val role: String, val level: Int) {
    internal companion object {
        val read: Reader<OutputSpec> = Read.structure { fields ->
            OutputSpec(fields.read("name", Read.string), fields.read("role", Read.string), fields.read("level", Read.int(), or = 0))
        }
    }
}

/** Defaults of what happens after decoding. */
data class Postprocess(
    val scoreThreshold: Double = 0.25,
    val iouThreshold: Double = 0.45,
    val maxDetections: Int = 300,
    val classAgnostic: Boolean = false,
    val nms: Boolean = true,
) {
    internal companion object {
        val read: Reader<Postprocess> = Read.structure { fields ->
            val found = Postprocess(
                fields.read("score_threshold", Read.float, or = 0.25),
                fields.read("iou_threshold", Read.float, or = 0.45),
                fields.read("max_detections", Read.int(), or = 300),
                fields.read("class_agnostic", Read.bool, or = false),
                fields.read("nms", Read.bool, or = true),
            )
            for ((name, value) in listOf("score" to found.scoreThreshold, "iou" to found.iouThreshold)) {
                if (!(value >= 0 && value <= 1)) throw Invalid("$name must be 0..1, not $value", fields.path)
            }
            if (found.maxDetections !in 1..1_000_000) {
                throw Invalid("max_detections must be 1..1000000, not ${found.maxDetections}", fields.path)
            }
            found
        }
    }
}

/** The keypoints of a pose: names, pairs joined by a line, and how exactly each can be placed. */
data class Skeleton(
    val names: List<String>,
    /** Pairs of indices. */
    val edges: List<List<Int>> = emptyList(),
    /** Spread of annotators in sizes of the object; one for each name, or none. */
    val sigmas: List<Double> = emptyList(),
) {
    internal companion object {
        val read: Reader<Skeleton> = Read.structure { fields ->
            val found = Skeleton(
                fields.read("names", Read.list(Read.string, most = 1 shl 10)),
                fields.read("edges", Read.list(Read.listOf(2, Read.int()), most = 1 shl 16), or = emptyList()),
                fields.read("sigmas", Read.list(Read.float), or = emptyList()),
            )
            val count = found.names.size
            if (count == 0) throw Invalid("names must name at least one keypoint", fields.path)
            for (edge in found.edges) {
                if (edge.any { it !in 0 until count } || edge[0] == edge[1]) {
                    throw Invalid("edges must be pairs of keypoints 0..${count - 1}, not $edge", fields.path)
                }
            }
            if (found.sigmas.isNotEmpty() && (found.sigmas.size != count || found.sigmas.min() <= 0)) {
                throw Invalid("sigmas must be $count positive numbers, not ${found.sigmas}", fields.path)
            }
            found
        }
    }
}
