package edgekit

/** Semantic segmentation: the class of every pixel of the upright frame. */
internal class Semantic(contract: Contract) : TaskReader {
    private val reading = Reading(contract)
    private val decoder = reading.decoder as? SemanticHeads
        ?: throw EdgeKitException.Contract("decoder '${contract.decoder.name}' gives no class for each cell; valid: semantic")

    init {
        if (contract.image.resize == ImageRule.Resize.CROP) {
            val what = "image.resize must be letterbox or stretch for the task 'semantic', not crop"
            throw EdgeKitException.Contract("$what: the network would not see all of the image")
        }
    }

    /** The class of each original pixel: logits are scaled to the input, without its padding to the original, and compared. */
    override fun result(outputs: List<Tensor>, mapping: Transform, thresholds: Thresholds): EdgeResult {
        val logits = reading.reading(outputs) { decoder.logits(it, reading.contract.classes.size) }
        val (width, height) = mapping.size
        val best = FloatArray(width * height) { Float.NEGATIVE_INFINITY }
        val labels = ShortArray(width * height)
        val seen = Window(mapping.offsetX.toInt(), mapping.offsetY.toInt(), mapping.resized.width, mapping.resized.height)
        for ((classId, plane) in logits.withIndex()) {
            // One after the other: all at once would take gigabytes.
            val whole = plane.resized(reading.frame.width, reading.frame.height)
            val scaled = whole.resized(width, height, seen).data
            for (i in scaled.indices) {
                if (scaled[i] > best[i]) {
                    best[i] = scaled[i]
                    labels[i] = classId.toShort()
                }
            }
        }
        return LabelMap(reading.info(mapping), labels)
    }
}
