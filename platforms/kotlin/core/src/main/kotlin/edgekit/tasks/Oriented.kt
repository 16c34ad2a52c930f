package edgekit

/** Oriented boxes: raw heads become boxes at any angle; NMS is by ProbIoU, as YOLO's own predictions are made. */
internal class Oriented(contract: Contract) : TaskReader {
    private val reading = Reading(contract, "angles")

    override fun result(outputs: List<Tensor>, mapping: Transform, thresholds: Thresholds): EdgeResult {
        val found = reading.attaching("angles", outputs, reading.candidates(outputs, reading.score(thresholds)))
        if (found.attached?.width != 5) throw EdgeKitException.Contract("decoder '${reading.contract.decoder.name}' gives no angles")
        val kept = reading.kept(found, thresholds) { some, limit ->
            rotatedSuppression(orientedBoxes(some), some.scores, some.classIds, limit, reading.contract.postprocess.classAgnostic)
        }
        val oriented = orientedBoxes(kept).map { it.original(mapping).canonical }
        val objects = Objects(oriented.map { it.enclosing.clipped(mapping.size) }, kept.scores, kept.classIds)
        return OrientedBoxes(reading.info(mapping), objects, oriented)
    }
}

private fun orientedBoxes(found: Candidates): List<OrientedBox> = found.boxes.indices.map { i ->
    val (x, y, width, height, angle) = found.attached!!.row(i)
    OrientedBox(x, y, width, height, angle)
}
