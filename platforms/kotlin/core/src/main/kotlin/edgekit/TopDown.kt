package edgekit

/**
 * Top-down pose: a [detector] finds the people, a [pose] model runs on each of them. Both stay the caller's to close.
 *
 * [classes] are those of the detector that have this pose: `person` when it knows that name, else all. [margin] is the size of
 * the part that the pose model sees, over the box; [double] the OKS above which the worse of two poses is dropped.
 *
 * Throws [EdgeKitException.Usage]: models of other tasks, a class that the detector does not know, or a margin below 1.
 */
class TopDown(
    private val detector: EdgeModel, private val pose: EdgeModel, classes: List<String>? = null, private val margin: Double = 1.25,
    private val double: Double = 0.9,
) : Streaming() {
    private val wanted: Set<Int>
    private val skeleton: Skeleton

    init {
        val (boxes, points) = detector.manifest.contract to pose.manifest.contract
        val skeleton = points.skeleton
        if (points.task != "pose" || skeleton == null) {
            throw EdgeKitException.Usage("the second model must be one of poses, not of the task '${points.task}'")
        }
        if (boxes.task != "detect" && boxes.task != "segment") {
            throw EdgeKitException.Usage("the first model must find boxes, not be one of the task '${boxes.task}'")
        }
        val names = classes ?: if ("person" in boxes.classes) listOf("person") else boxes.classes
        names.firstOrNull { it !in boxes.classes }?.let {
            throw EdgeKitException.Usage("the detector knows no class '$it'; it knows ${boxes.classes.joinToString(", ")}")
        }
        if (!(margin >= 1)) throw EdgeKitException.Usage("margin must be at least 1, not $margin")
        wanted = names.map { boxes.classes.indexOf(it) }.toSet()
        this.skeleton = skeleton
    }

    /**
     * The poses in one frame, best first; thresholds are the detector's. Boxes are the detector's, scores its score times the
     * pose's (the mean of its keypoints').
     *
     * Throws as [EdgeModel.run] of either model.
     */
    override suspend fun run(frame: Frame, thresholds: Thresholds): Poses {
        val all = detector.run(frame, thresholds)
        val begun = System.nanoTime()
        val objects = all.objects ?: throw EdgeKitException.Usage("the detector gave no boxes")
        val found = objects.taking(indicesWhere(objects.count) { objects.classIds[it] in wanted })
        val (keypoints, inference) = pose.posesIn(frame.upright(), found.boxes, margin)
        val poses = joined(all.info, found, keypoints, skeleton, double)
        val (pre, first, post) = all.timings
        val rest = (System.nanoTime() - begun) * 1e-6 - inference
        return poses.withInfo(poses.info.copy(timings = Timings(pre, first + inference, post + rest)))
    }
}

/** Run a pose model once for each box: its best pose there, zeros where there is none, and milliseconds in the engine. */
internal suspend fun posesIn(
    image: Pixels, boxes: List<Box>, margin: Double, task: TaskReader, preprocessor: Preprocessor, run: suspend (Tensor) -> List<Tensor>,
): Pair<List<List<Keypoint>>, Double> {
    var inference = 0.0
    val found = boxes.map { box ->
        val mapping = Transform.around(box, margin, preprocessor.rule, Size(image.width, image.height))
        val tensor = preprocessor.part(image, mapping)
        val begun = System.nanoTime()
        val outputs = run(tensor)
        inference += (System.nanoTime() - begun) * 1e-6
        val poses = task.result(outputs, mapping, Thresholds(score = -1.0)) as Poses
        poses.keypoints.firstOrNull() ?: poses.skeleton.names.map { Keypoint(0f, 0f, 0f) }
    }
    return found to inference
}

/** Boxes and the poses in them as one result, best first: scores multiplied, and poses that are one person's dropped. */
internal fun joined(info: FrameInfo, found: Objects, keypoints: List<List<Keypoint>>, skeleton: Skeleton, double: Double): Poses {
    val scores = FloatArray(found.count) { row ->
        found.scores[row] * (keypoints[row].fold(0f) { sum, point -> sum + point.score } / keypoints[row].size)
    }
    val areas = FloatArray(found.count) { AREA_SHARE * found.boxes[it].area }
    val sigmas = skeleton.sigmas.ifEmpty { skeleton.names.map { SIGMA } }
    val kept = keypointSuppression(keypoints, scores, areas, sigmas, double)
    val objects = Objects(found.boxes, scores, found.classIds, found.trackIds).taking(kept)
    return Poses(info, objects, keypoints.taking(kept), skeleton)
}

/** Area of a person's outline as a share of its box. */
private const val AREA_SHARE = 0.53f

/** Spread of a keypoint where the skeleton does not tell. */
private const val SIGMA = 0.05
