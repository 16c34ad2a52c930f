package edgekit

/** Classification: one value a class becomes the scores of the whole frame. */
internal class Classify(contract: Contract) : TaskReader {
    private val reading = Reading(contract)
    private val decoder = reading.decoder as? Classes
        ?: throw EdgeKitException.Contract("decoder '${contract.decoder.name}' gives no score for each class; valid: classes")

    /** `thresholds.score` replaces the contract's threshold of labels. */
    override fun result(outputs: List<Tensor>, mapping: Transform, thresholds: Thresholds): EdgeResult {
        val threshold = reading.score(thresholds)
        val scores = reading.reading(outputs) { decoder.scores(it, reading.contract.classes.size) }
        return Classification(reading.info(mapping), scores, decoder.isSigmoid, threshold)
    }
}
