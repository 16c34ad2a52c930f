import Foundation

/// Detection transformers: a set of queries, each with a box and a score for every class, without anchors and NMS.
/// DETR, YOLOS: softmax; Deformable DETR, RT-DETR, D-FINE: sigmoid, several classes a query.
package struct Queries: Decoder {
    package static let name = "queries"

    private let isSigmoid: Bool

    package init(_ options: Fields) throws {
        isSigmoid = try options.read("score", Read.word("sigmoid", "softmax"), or: "sigmoid") == "sigmoid"
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let (logits, rows, columns) = try matrix(try heads.only("classes"))
        let (boxes, boxRows, four) = try matrix(try heads.only("boxes"))
        let wanted = frame.classes + (isSigmoid ? 0 : 1)
        if frame.classes == 0 || columns != wanted || four != 4 || boxRows != rows { throw Misfit("(1, n, \(wanted)) logits and (1, n, 4) boxes are needed") }
        try checkFinite(logits)
        var found = Candidates()
        let (width, height) = (Float(frame.width), Float(frame.height))
        func add(_ row: Int, _ classId: Int, _ score: Float) {
            found.add(
                x: boxes[4 * row] * width, y: boxes[4 * row + 1] * height,
                width: boxes[4 * row + 2] * width, height: boxes[4 * row + 3] * height,
                score, classId, row * frame.classes + classId)
        }
        let cut = logit(threshold)
        for row in 0..<rows {
            let at = row * columns
            if isSigmoid {
                for c in 0..<columns where logits[at + c] > cut { add(row, c, sigmoid(logits[at + c])) }
            } else {
                let (classId, best) = likeliest(logits[at..<at + columns])
                if best > Float(threshold) { add(row, classId, best) }
            }
        }
        return found
    }

    /// The best class of a query but for the last one, no object, and its probability.
    private func likeliest(_ logits: ArraySlice<Float>) -> (Int, Float) {
        let at = logits.startIndex
        var classId = 0
        for c in 0..<logits.count - 1 where logits[at + c] > logits[at + classId] { classId = c }
        let most = logits.max()!
        let total = logits.reduce(0.0) { $0 + exp(Double($1 - most)) }
        return (classId, Float(exp(Double(logits[at + classId] - most)) / total))
    }
}
