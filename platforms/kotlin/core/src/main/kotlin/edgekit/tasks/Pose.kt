package edgekit

/** Pose: raw heads become boxes with keypoints in the pixels of the upright frame. */
internal class Pose(contract: Contract) : TaskReader {
    private val skeleton = contract.skeleton
        ?: throw EdgeKitException.Contract("a pose contract names its keypoints: skeleton: {names: [...], edges, sigmas}")
    private val reading = Reading(contract, "keypoints")

    override fun result(outputs: List<Tensor>, mapping: Transform, thresholds: Thresholds): EdgeResult {
        val kept = reading.boxes(outputs, thresholds, "keypoints")
        val keypoints = kept.boxes.indices.map { i ->
            val row = kept.attached?.row(i) ?: FloatArray(0)
            row.indices.step(3).map { Keypoint(mapping.originalX(row[it]), mapping.originalY(row[it + 1]), row[it + 2]) }
        }
        return Poses(reading.info(mapping), reading.objects(kept, mapping), keypoints, skeleton)
    }
}
