/// Detection: raw heads become boxes, scores and classes in the pixels of the upright frame.
package struct Detect: TaskReader {
    private let reading: Reading

    package init(_ contract: Contract) throws { reading = try Reading(contract) }

    package func result(_ outputs: [Tensor], _ mapping: Transform, _ thresholds: Thresholds) throws -> EdgeResult {
        let kept = try reading.boxes(outputs, thresholds)
        return .detections(Detections(info: reading.info(mapping), objects: reading.objects(kept, mapping)))
    }
}
