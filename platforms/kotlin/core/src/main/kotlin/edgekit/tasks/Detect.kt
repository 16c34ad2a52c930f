package edgekit

/** Detection: raw heads become boxes, scores and classes in the pixels of the upright frame. */
internal class Detect(contract: Contract) : TaskReader {
    private val reading = Reading(contract)

    override fun result(outputs: List<Tensor>, mapping: Transform, thresholds: Thresholds): EdgeResult =
        Detections(reading.info(mapping), reading.objects(reading.boxes(outputs, thresholds), mapping))
}
