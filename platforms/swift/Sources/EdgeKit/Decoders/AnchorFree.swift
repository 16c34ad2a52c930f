import Foundation

/// YOLOv8, 11 (with DFL) and 26 (without): distances left, top, right, bottom from the cell's centre, in strides;
/// keypoints, mask coefficients or angles beside them.
///
/// DFL heads give each distance as logits over bins, whose expectation is the distance (Li et al. 2020).
package struct AnchorFree: Decoder {
    package static let name = "anchor_free"
    package static let attachments = ["coefficients", "keypoints", "angles"]

    private let strides: [Int]
    private let bins: Int
    private let keypointScale: Float
    private let keypointOffset: Float
    private let cellOffset: Float
    private let anglesAreRadians: Bool

    package init(_ options: Fields) throws {
        strides = try options.read("strides", Read.list(Read.count))
        bins = try options.read("reg_max", Read.count, or: 16)
        keypointScale = Float(try options.read("keypoint_scale", Read.positive, or: 2))
        keypointOffset = Float(try options.read("keypoint_offset", Read.float, or: 0))
        cellOffset = Float(try options.read("cell_offset", Read.float, or: 0.5))
        anglesAreRadians = try options.read("angle", Read.word("sigmoid", "radians"), or: "sigmoid") == "radians"
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let cut = logit(threshold)
        let boxHeads = try heads.levels("boxes", strides.count)
        let classHeads = try heads.levels("classes", strides.count)
        var found = Candidates()
        var first = 0
        for (level, stride) in strides.enumerated() {
            let grid = try Grid(classHeads[level], frame, stride: Double(stride))
            let best = try survivors(try grid.planes(classHeads[level], frame.classes), 0, frame.classes, grid.cells, above: cut)
            try checkBins(boxHeads[level])
            let boxes = try grid.planes(boxHeads[level], 4 * bins)
            let stride = Float(stride)
            for cell in 0..<grid.cells where best.values[cell] > cut {
                let reach = (0..<4).map { distance(boxes, $0 * bins * grid.cells + cell, grid.cells) }
                let (x, y) = (grid.column(cell) + cellOffset, grid.row(cell) + cellOffset)
                let box = Box((x - reach[0]) * stride, (y - reach[1]) * stride, (x + reach[2]) * stride, (y + reach[3]) * stride)
                found.add(box, sigmoid(best.values[cell]), best.classIds[cell], first + cell)
            }
            first += grid.cells
        }
        return found
    }

    private func checkBins(_ head: Tensor) throws {
        try Grid.checkPlanes(head)
        let channels = head.shape[1]
        if channels == 4 * bins { return }
        let fits = channels % 4 == 0 ? ": reg_max: \(channels / 4)" : ""
        throw Misfit("reg_max: \(bins) wants \(4 * bins) channels of boxes, but there are \(channels)\(fits)")
    }

    /// One distance in strides: the expectation over the bins' logits, or the value itself where there is one bin.
    private func distance(_ values: [Float], _ at: Int, _ step: Int) -> Float {
        if bins == 1 { return values[at] }
        var most = -Float.infinity
        for bin in 0..<bins where !(values[at + bin * step] <= most) { most = values[at + bin * step] }
        var (total, mean): (Float, Float) = (0, 0)
        for bin in 0..<bins {
            let weight = exp(values[at + bin * step] - most)
            total += weight
            mean += weight * Float(bin)
        }
        return mean / total
    }

    package func attach(_ role: String, _ heads: Heads, _ frame: InputFrame, at anchors: [Int]) throws -> Attached {
        switch role {
        case "coefficients": return try places(try heads.levels("coefficients"), at: anchors).attached
        case "angles": return try oriented(heads, anchors)
        default: return try keypoints(heads, frame, anchors)
        }
    }

    /// Keypoints (n, k, 3); a head of two values a keypoint gives each the score 1.
    private func keypoints(_ heads: Heads, _ frame: InputFrame, _ anchors: [Int]) throws -> Attached {
        let at = try places(try heads.levels("keypoints"), at: anchors)
        var found = try points(at.attached, frame.keypoints)
        let isScored = at.width == 3 * frame.keypoints
        for i in anchors.indices {
            let stride = Float(strides[at.levels[i]])
            for k in stride3(i, found.width) {
                found.data[k] = (found.data[k] * keypointScale + (at.columns[i] + keypointOffset)) * stride
                found.data[k + 1] = (found.data[k + 1] * keypointScale + (at.rows[i] + keypointOffset)) * stride
                if isScored { found.data[k + 2] = sigmoid(found.data[k + 2]) }
            }
        }
        return found
    }

    /// Oriented boxes (n, 5): distances along axes that are turned by the angle around the place that they count from.
    private func oriented(_ heads: Heads, _ anchors: [Int]) throws -> Attached {
        let at = try places(try heads.levels("boxes"), at: anchors)
        let raw = try places(try heads.levels("angles"), at: anchors)
        if raw.width != 1 { throw Misfit("\(raw.width) channels of angles, but 1 is needed") }
        var boxes: [Float] = []
        for i in anchors.indices {
            let reach = (0..<4).map { distance(at.values, i * at.width + $0 * bins, 1) }
            let angle = anglesAreRadians ? raw.values[i] : (sigmoid(raw.values[i]) - 0.25) * Float.pi
            let (c, s) = (cos(angle), sin(angle))
            let (awayX, awayY) = ((reach[2] - reach[0]) / 2, (reach[3] - reach[1]) / 2)
            let stride = Float(strides[at.levels[i]])
            boxes += [
                (at.columns[i] + cellOffset + awayX * c - awayY * s) * stride,
                (at.rows[i] + cellOffset + awayX * s + awayY * c) * stride,
                (reach[0] + reach[2]) * stride, (reach[1] + reach[3]) * stride, angle,
            ]
        }
        return Attached(data: boxes, width: 5)
    }
}

/// Places of the points of row `i` of (n, k, 3).
package func stride3(_ i: Int, _ width: Int) -> StrideTo<Int> { stride(from: i * width, to: (i + 1) * width, by: 3) }

extension Read {
    /// A whole number of things.
    package static let count = Read.int(from: 1, to: 1 << 16)
}
