package edgekit

import kotlin.math.sqrt

/**
 * The detections of one frame, checked and in an order that does not depend on the one they were given in: best first.
 *
 * Throws [EdgeKitException.Usage].
 */
internal class Observed(boxes: List<Box>, scores: FloatArray, classIds: IntArray, embeddings: List<FloatArray>?) {
    /** Where each was in the arrays given. */
    val rows: IntArray
    val boxes: List<Box>
    val scores: FloatArray
    val classIds: IntArray

    /** Unit vectors; null without. */
    val embeddings: List<FloatArray>?

    val count: Int get() = boxes.size

    init {
        check(boxes, scores, classIds)
        if (embeddings != null) check(embeddings, boxes.size)
        // Equal scores are ordered by place and class, so that the order they were given in decides nothing.
        rows = boxes.indices.sortedWith { a, b ->
            val (one, other) = boxes[a] to boxes[b]
            when {
                scores[a] != scores[b] -> scores[b].compareTo(scores[a])
                one.y2 != other.y2 -> one.y2.compareTo(other.y2)
                one.x2 != other.x2 -> one.x2.compareTo(other.x2)
                one.y1 != other.y1 -> one.y1.compareTo(other.y1)
                one.x1 != other.x1 -> one.x1.compareTo(other.x1)
                else -> classIds[a].compareTo(classIds[b])
            }
        }.toIntArray()
        this.boxes = boxes.taking(rows)
        this.scores = scores.taking(rows)
        this.classIds = classIds.taking(rows)
        this.embeddings = embeddings?.taking(rows)?.map { unit(it) }
    }

    private fun check(boxes: List<Box>, scores: FloatArray, classIds: IntArray) {
        for ((name, count) in listOf("scores" to scores.size, "classIds" to classIds.size)) {
            if (count != boxes.size) throw EdgeKitException.Usage("$name must have one entry for each of the ${boxes.size} boxes, not $count")
        }
        boxes.forEachIndexed { row, box ->
            if (!box.isFinite) throw EdgeKitException.Usage("boxes must be finite; row $row is $box")
            if (box.x2 < box.x1 || box.y2 < box.y1) throw EdgeKitException.Usage("boxes must have x1 <= x2 and y1 <= y2, not $box")
        }
        for (score in scores) {
            if (!(score >= 0 && score <= 1)) throw EdgeKitException.Usage("scores must be in 0..1, not $score; apply the sigmoid first")
        }
    }

    private fun check(embeddings: List<FloatArray>, count: Int) {
        if (embeddings.size != count || embeddings.any { it.size != embeddings[0].size }) {
            throw EdgeKitException.Usage("embeddings must have one row of one length for each of the $count boxes, not ${embeddings.size}")
        }
        embeddings.forEachIndexed { row, vector ->
            if (!vector.all { it.isFinite() }) throw EdgeKitException.Usage("embeddings must be finite; row $row is not")
        }
    }
}

/** A vector scaled to length 1; one of zeros stays, and is like nothing. */
internal fun unit(vector: FloatArray): FloatArray {
    val length = sqrt(vector.sumOf { it.toDouble() * it }).toFloat()
    return if (length > 0) FloatArray(vector.size) { vector[it] / length } else vector
}
