/// Oriented boxes: raw heads become boxes at any angle; NMS is by ProbIoU, as YOLO's own predictions are made.
package struct Oriented: TaskReader {
    private let reading: Reading

    package init(_ contract: Contract) throws { reading = try Reading(contract, attached: "angles") }

    package func result(_ outputs: [Tensor], _ mapping: Transform, _ thresholds: Thresholds) throws -> EdgeResult {
        let plain = try reading.candidates(outputs, above: try reading.score(thresholds))
        let found = try reading.attaching("angles", outputs, plain)
        guard found.attached?.width == 5 else {
            throw EdgeKitError.contract("decoder '\(reading.contract.decoder.name)' gives no angles")
        }
        let kept = try reading.kept(found, thresholds) { some, limit in
            rotatedSuppression(
                orientedBoxes(some.attached!), some.scores, some.classIds, limit, classAgnostic: reading.contract.postprocess.classAgnostic)
        }
        let oriented = orientedBoxes(kept.attached!).map { $0.original(mapping).canonical }
        var objects = reading.objects(kept, mapping)
        objects.boxes = oriented.map { $0.enclosing.clipped(to: mapping.size) }
        return .oriented(OrientedBoxes(info: reading.info(mapping), objects: objects, oriented: oriented))
    }
}

private func orientedBoxes(_ attached: Attached) -> [OrientedBox] {
    stride(from: 0, to: attached.data.count, by: 5).map { at in
        let values = attached.data[at..<at + 5]
        return OrientedBox(x: values[at], y: values[at + 1], width: values[at + 2], height: values[at + 3], angle: values[at + 4])
    }
}
