package edgekit

/** Embedding: one vector for the whole frame, for re-identification and similarity search. */
internal class Embed(contract: Contract) : TaskReader {
    private val reading = Reading(contract)

    init {
        if (reading.decoder !is Vectors) throw EdgeKitException.Contract("decoder '${contract.decoder.name}' gives no vector; valid: vector")
    }

    override fun result(outputs: List<Tensor>, mapping: Transform, thresholds: Thresholds): EdgeResult =
        Embedding(reading.info(mapping), reading.candidates(outputs, -1.0).attached?.data ?: FloatArray(0))
}
