/// Semantic segmentation: the class of every pixel of the upright frame.
package struct Semantic: TaskReader {
    private let reading: Reading
    private let decoder: SemanticHeads

    package init(_ contract: Contract) throws {
        reading = try Reading(contract)
        guard let decoder = reading.decoder as? SemanticHeads else {
            throw EdgeKitError.contract("decoder '\(contract.decoder.name)' gives no class for each cell; valid: semantic")
        }
        self.decoder = decoder
        if contract.image.resize == .crop {
            throw EdgeKitError.contract(
                "image.resize must be letterbox or stretch for the task 'semantic', not crop: the network would not see all of the image")
        }
    }

    /// The class of each original pixel: logits are scaled to the input, without its padding to the original, and compared.
    package func result(_ outputs: [Tensor], _ mapping: Transform, _ thresholds: Thresholds) throws -> EdgeResult {
        let logits = try reading.reading(outputs) { try decoder.logits($0, reading.contract.classes.count) }
        let (width, height) = (mapping.size.width, mapping.size.height)
        var best = [Float](repeating: -.infinity, count: width * height)
        var labels = [UInt16](repeating: 0, count: width * height)
        let seen = Window(left: Int(mapping.offsetX), top: Int(mapping.offsetY), width: mapping.resized.width, height: mapping.resized.height)
        for (classId, plane) in logits.enumerated() {
            // One after the other: all at once would take gigabytes.
            let whole = plane.resized(width: reading.frame.width, height: reading.frame.height)
            let scaled = whole.resized(width: width, height: height, part: seen).data
            for i in scaled.indices where scaled[i] > best[i] {
                best[i] = scaled[i]
                labels[i] = UInt16(truncatingIfNeeded: classId)
            }
        }
        return .labels(LabelMap(info: reading.info(mapping), labels: labels))
    }
}
