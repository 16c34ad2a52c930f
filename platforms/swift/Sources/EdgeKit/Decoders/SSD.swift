import Foundation

/// SSD, RetinaNet, RetinaFace, BlazeFace and EfficientDet: boxes as differences from priors, landmarks beside them.
///
/// Offsets of a prior's centre and log ratios of its size (Liu et al., SSD, 2016); channels are prior-major.
package struct SSD: Decoder {
    package static let name = "ssd"
    package static let attachments = ["keypoints"]

    private let strides: [Double]
    private let priors: [[[Double]]]
    private let variances: [Float]
    private let isSigmoid: Bool
    private let backgroundIsFirst: Bool
    private let isLog: Bool
    private let order: [Int]
    private let cellOffset: Float

    package init(_ options: Fields) throws {
        strides = try options.read("strides", Read.list(Read.positive))
        priors = try options.read("priors", Read.list(Read.list(Read.list(of: 2, Read.positive))))
        variances = try options.read("variances", Read.list(of: 4, Read.float), or: [0.1, 0.1, 0.2, 0.2]).map { Float($0) }
        isSigmoid = try options.read("score", Read.word("softmax", "sigmoid"), or: "softmax") == "sigmoid"
        backgroundIsFirst = try options.read("background", Read.word("first", "last"), or: "first") == "first"
        isLog = try options.read("sizes", Read.word("log", "plain"), or: "log") == "log"
        order = try options.read("order", Read.word("xywh", "yxhw"), or: "xywh") == "xywh" ? [0, 1, 2, 3] : [1, 0, 3, 2]
        cellOffset = Float(try options.read("cell_offset", Read.float, or: 0.5))
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        if priors.count != strides.count { throw Misfit("\(priors.count) levels of priors for \(strides.count) strides") }
        let boxHeads = try heads.levels("boxes", strides.count)
        let classHeads = try heads.levels("classes", strides.count)
        var found = Candidates()
        var first = 0
        for (level, stride) in strides.enumerated() {
            let kinds = priors[level].count
            let grid = try Grid(classHeads[level], frame, stride: stride)
            let (cells, stride) = (grid.cells, Float(stride))
            let count = frame.classes + (isSigmoid ? 0 : 1)
            let logits = try grid.planes(classHeads[level], kinds * count)
            try Grid.checkPlanes(boxHeads[level])
            let whole = 4 + 2 * frame.keypoints  // boxes may have their keypoints behind them
            let row = boxHeads[level].shape[1] == kinds * whole ? whole : 4
            let values = try grid.planes(boxHeads[level], kinds * row)
            for (kind, prior) in priors[level].enumerated() {
                let best = try scored(logits, kind * count * cells, count, cells)
                for cell in 0..<cells where best.values[cell] > Float(threshold) {
                    let shift = try (0..<4).map { try finite(values[(kind * row + order[$0]) * cells + cell]) * variances[$0] }
                    let (width, height) = (Float(prior[0]), Float(prior[1]))
                    found.add(
                        x: (grid.column(cell) + cellOffset) * stride + shift[0] * width,
                        y: (grid.row(cell) + cellOffset) * stride + shift[1] * height,
                        width: (isLog ? exp(shift[2]) : shift[2]) * width, height: (isLog ? exp(shift[3]) : shift[3]) * height,
                        best.values[cell], best.classIds[cell], first + cell * kinds + kind)
                }
            }
            first += cells * kinds
        }
        return found
    }

    /// Best score and class of every cell of one prior.
    private func scored(_ logits: [Float], _ first: Int, _ count: Int, _ cells: Int) throws -> Best {
        var best = try bestOf(logits, first, count, cells)
        if isSigmoid {
            best.values = best.values.map(sigmoid)
            return best
        }
        let from = backgroundIsFirst ? 1 : 0
        for cell in 0..<cells {
            // A logit may be -infinity: certain that it is not this class.
            var classId = 0
            for c in 1..<max(count - 1, 1)
            where logits[first + (from + c) * cells + cell] > logits[first + (from + classId) * cells + cell] { classId = c }
            let most = best.values[cell]
            var total = 0.0
            for c in 0..<count { total += exp(Double(logits[first + c * cells + cell] - most)) }
            best.values[cell] = Float(exp(Double(logits[first + (from + classId) * cells + cell] - most)) / total)
            best.classIds[cell] = classId
        }
        return best
    }

    /// Keypoints (n, k, 3) as offsets from the prior's centre in its sizes: in heads of their own, or behind the box.
    package func attach(_ role: String, _ heads: Heads, _ frame: InputFrame, at anchors: [Int]) throws -> Attached {
        let hasOwn = heads.has("keypoints")
        let at = try places(try heads.levels(hasOwn ? "keypoints" : "boxes"), at: anchors, perCell: priors.map(\.count))
        let skipped = hasOwn ? 0 : 4
        let behind = anchors.indices.flatMap { at.attached.row($0).dropFirst(skipped) }
        var found = try points(Attached(data: behind, width: at.width - skipped), frame.keypoints)
        for i in anchors.indices {
            let stride = Float(strides[at.levels[i]])
            let prior = priors[at.levels[i]][at.kinds[i]]
            for k in stride3(i, found.width) {
                found.data[k] = (at.columns[i] + cellOffset) * stride + found.data[k] * variances[0] * Float(prior[0])
                found.data[k + 1] = (at.rows[i] + cellOffset) * stride + found.data[k + 1] * variances[1] * Float(prior[1])
            }
        }
        return found
    }
}
