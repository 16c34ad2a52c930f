/// Embedding: one vector for the whole frame, for re-identification and similarity search.
package struct Embed: TaskReader {
    private let reading: Reading

    package init(_ contract: Contract) throws {
        reading = try Reading(contract)
        if !(reading.decoder is Vectors) {
            throw EdgeKitError.contract("decoder '\(contract.decoder.name)' gives no vector; valid: vector")
        }
    }

    package func result(_ outputs: [Tensor], _ mapping: Transform, _ thresholds: Thresholds) throws -> EdgeResult {
        let found = try reading.candidates(outputs, above: -1)
        return .embedding(Embedding(info: reading.info(mapping), vector: found.attached?.data ?? []))
    }
}
