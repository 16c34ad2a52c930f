/// Classification: one value a class becomes the scores of the whole frame.
package struct Classify: TaskReader {
    private let reading: Reading
    private let decoder: Classes

    package init(_ contract: Contract) throws {
        reading = try Reading(contract)
        guard let decoder = reading.decoder as? Classes else {
            throw EdgeKitError.contract("decoder '\(contract.decoder.name)' gives no score for each class; valid: classes")
        }
        self.decoder = decoder
    }

    /// `thresholds.score` replaces the contract's threshold of labels.
    package func result(_ outputs: [Tensor], _ mapping: Transform, _ thresholds: Thresholds) throws -> EdgeResult {
        let threshold = try reading.score(thresholds)
        let scores = try reading.reading(outputs) { try decoder.scores($0, reading.contract.classes.count) }
        return .classification(
            Classification(info: reading.info(mapping), scores: scores, isMultiLabel: decoder.isSigmoid, threshold: threshold))
    }
}
