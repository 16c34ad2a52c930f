package edgekit

/** What a model finds in one frame: one type for each task. Coordinates are pixels of the upright frame. */
sealed class EdgeResult {
    /** The frame that this was found in, and what it took. */
    abstract val info: FrameInfo

    /** The objects of tasks with boxes; null for the others. */
    open val objects: Objects? get() = null

    /** Milliseconds before, in and after the engine. */
    val timings: Timings get() = info.timings

    /** The same of a frame that more is known of. */
    internal abstract fun withInfo(info: FrameInfo): EdgeResult

    /** The rows of a result with boxes at these places, in that order, with track ids. Other results stay as they are. */
    internal open fun picked(rows: IntArray, trackIds: IntArray): EdgeResult = this
}

/** The frame that a result is of. */
data class FrameInfo(
    /** Of the upright frame. */
    val size: Size,
    /** Names of all classes that the model knows. */
    val classes: List<String>,
    /** Seconds, as the frame has it. */
    val time: Double? = null,
    val timings: Timings = Timings(),
)

/** Milliseconds that one frame took: before, in, and after the engine. */
data class Timings(val pre: Double = 0.0, val inference: Double = 0.0, val post: Double = 0.0)

/** Boxes with scores and classes, best first. The columns have one entry for each object. */
class Objects(
    val boxes: List<Box>,
    /** 0..1. */
    val scores: FloatArray,
    /** Indices into the classes. */
    val classIds: IntArray,
    /** The same number for the same object in every frame; null where nothing is tracked. */
    val trackIds: IntArray? = null,
) {
    val count: Int get() = boxes.size

    internal fun taking(rows: IntArray): Objects =
        Objects(boxes.taking(rows), scores.taking(rows), classIds.taking(rows), trackIds?.taking(rows))

    internal fun picked(rows: IntArray, trackIds: IntArray): Objects =
        Objects(boxes.taking(rows), scores.taking(rows), classIds.taking(rows), trackIds)
}

/** Boxes, scores and classes. */
class Detections(override val info: FrameInfo, override val objects: Objects) : EdgeResult() {
    override fun withInfo(info: FrameInfo) = Detections(info, objects)

    override fun picked(rows: IntArray, trackIds: IntArray) = Detections(info, objects.picked(rows, trackIds))
}

/** A point of a pose, with how sure the model is of it. */
data class Keypoint(val x: Float, val y: Float, val score: Float)

/** Objects with keypoints. */
class Poses(
    override val info: FrameInfo,
    override val objects: Objects,
    /** Of each object one for each name of the skeleton; also outside the frame. */
    val keypoints: List<List<Keypoint>>,
    val skeleton: Skeleton,
) : EdgeResult() {
    override fun withInfo(info: FrameInfo) = Poses(info, objects, keypoints, skeleton)

    override fun picked(rows: IntArray, trackIds: IntArray) = Poses(info, objects.picked(rows, trackIds), keypoints.taking(rows), skeleton)
}

/** Objects with a mask each. */
class Instances(override val info: FrameInfo, override val objects: Objects, val masks: List<Mask>) : EdgeResult() {
    override fun withInfo(info: FrameInfo) = Instances(info, objects, masks)

    override fun picked(rows: IntArray, trackIds: IntArray) = Instances(info, objects.picked(rows, trackIds), masks.taking(rows))
}

/** A box at any angle. */
data class OrientedBox(
    /** Centre. */
    val x: Float,
    val y: Float,
    /** The longer side. */
    val width: Float,
    val height: Float,
    /** Radians from the x axis to the width, clockwise on the screen, from -pi/2 to below pi/2. */
    val angle: Float,
)

/** Objects in boxes at any angle; the boxes of [objects] are the upright ones around them, inside the frame. */
class OrientedBoxes(override val info: FrameInfo, override val objects: Objects, val oriented: List<OrientedBox>) : EdgeResult() {
    override fun withInfo(info: FrameInfo) = OrientedBoxes(info, objects, oriented)

    override fun picked(rows: IntArray, trackIds: IntArray) = OrientedBoxes(info, objects.picked(rows, trackIds), oriented.taking(rows))
}

/** The scores of all classes for the whole frame. */
class Classification(
    override val info: FrameInfo,
    val scores: FloatArray,
    /** A frame may be of several classes, or of none. */
    val isMultiLabel: Boolean,
    /** The score from which on [labels] names a class. */
    val threshold: Double,
) : EdgeResult() {
    /** Indices of the classes with the highest scores, best first. */
    fun top(count: Int = 5): List<Int> = descending(scores).take(count)

    /** Names of the classes that score at least the threshold, best first. */
    val labels: List<String> get() = top(scores.size).filter { scores[it] >= threshold.toFloat() }.map { info.classes[it] }

    override fun withInfo(info: FrameInfo) = Classification(info, scores, isMultiLabel, threshold)
}

/** The class of every pixel, row after row. */
class LabelMap(override val info: FrameInfo, val labels: ShortArray) : EdgeResult() {
    override fun withInfo(info: FrameInfo) = LabelMap(info, labels)
}

/** A vector of unit length for the whole frame. */
class Embedding(override val info: FrameInfo, val vector: FloatArray) : EdgeResult() {
    override fun withInfo(info: FrameInfo) = Embedding(info, vector)
}
