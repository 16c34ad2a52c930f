/// The detections of one frame, checked and in an order that does not depend on the one they were given in: best first.
package struct Observed: Sendable {
    package let boxes: [Box]
    package let scores: [Float]
    package let classIds: [Int]
    /// Where each was in the arrays given.
    package let rows: [Int]
    /// Unit vectors; nil without.
    package let embeddings: [[Float]]?

    package var count: Int { boxes.count }

    /// Throws `EdgeKitError.usage`.
    package init(_ boxes: [Box], _ scores: [Float], _ classIds: [Int], _ embeddings: [[Float]]?) throws {
        for (name, count) in [("scores", scores.count), ("classIds", classIds.count)] where count != boxes.count {
            throw EdgeKitError.usage("\(name) must have one entry for each of the \(boxes.count) boxes, not \(count)")
        }
        for (row, box) in boxes.enumerated() {
            if !(box.x1.isFinite && box.y1.isFinite && box.x2.isFinite && box.y2.isFinite) {
                throw EdgeKitError.usage("boxes must be finite; row \(row) is \(box)")
            }
            if box.x2 < box.x1 || box.y2 < box.y1 {
                throw EdgeKitError.usage("boxes must have x1 <= x2 and y1 <= y2, not \(box)")
            }
        }
        for score in scores where !(score >= 0 && score <= 1) {
            throw EdgeKitError.usage("scores must be in 0..1, not \(score); apply the sigmoid first")
        }
        // Equal scores are ordered by place and class, so that the order they were given in decides nothing.
        let rows = boxes.indices.sorted { a, b in
            if scores[a] != scores[b] { return scores[a] > scores[b] }
            let (one, other) = (boxes[a], boxes[b])
            if one.y2 != other.y2 { return one.y2 < other.y2 }
            if one.x2 != other.x2 { return one.x2 < other.x2 }
            if one.y1 != other.y1 { return one.y1 < other.y1 }
            if one.x1 != other.x1 { return one.x1 < other.x1 }
            return (classIds[a], a) < (classIds[b], b)
        }
        self.rows = rows
        self.boxes = boxes.taking(rows)
        self.scores = scores.taking(rows)
        self.classIds = classIds.taking(rows)
        self.embeddings = try embeddings.map { given in
            guard given.count == boxes.count, given.allSatisfy({ $0.count == given[0].count }) else {
                throw EdgeKitError.usage("embeddings must have one row of one length for each of the \(boxes.count) boxes, not \(given.count)")
            }
            for (row, vector) in given.enumerated() where !vector.allSatisfy(\.isFinite) {
                throw EdgeKitError.usage("embeddings must be finite; row \(row) is not")
            }
            return given.taking(rows).map(unit)
        }
    }
}

/// A vector scaled to length 1; one of zeros stays, and is like nothing.
package func unit(_ vector: [Float]) -> [Float] {
    let length = Float(vector.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot())
    return length > 0 ? vector.map { $0 / length } : vector
}
