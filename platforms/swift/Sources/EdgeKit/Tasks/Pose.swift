/// Pose: raw heads become boxes with keypoints in the pixels of the upright frame.
package struct Pose: TaskReader {
    private let reading: Reading
    private let skeleton: Skeleton

    package init(_ contract: Contract) throws {
        guard let skeleton = contract.skeleton else {
            throw EdgeKitError.contract("a pose contract names its keypoints: skeleton: {names: [...], edges, sigmas}")
        }
        reading = try Reading(contract, attached: "keypoints")
        self.skeleton = skeleton
    }

    package func result(_ outputs: [Tensor], _ mapping: Transform, _ thresholds: Thresholds) throws -> EdgeResult {
        let kept = try reading.boxes(outputs, thresholds, attached: "keypoints")
        let keypoints = kept.boxes.indices.map { i in
            guard let row = kept.attached?.row(i) else { return [Keypoint]() }
            return stride(from: row.startIndex, to: row.endIndex, by: 3).map {
                Keypoint(x: mapping.original(x: row[$0]), y: mapping.original(y: row[$0 + 1]), score: row[$0 + 2])
            }
        }
        return .poses(
            Poses(info: reading.info(mapping), objects: reading.objects(kept, mapping), keypoints: keypoints, skeleton: skeleton))
    }
}
