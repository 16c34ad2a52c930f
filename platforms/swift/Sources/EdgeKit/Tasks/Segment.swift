/// Instance segmentation: boxes with mask coefficients, which weigh prototypes, become masks in original pixels.
///
/// A mask is where the sum of prototypes, each times one of the object's coefficients, is positive, cut to its box
/// (YOLACT, Bolya et al. 2019). Only the objects that NMS leaves are multiplied out, each only inside its box.
package struct Segment: TaskReader {
    private let reading: Reading

    package init(_ contract: Contract) throws {
        reading = try Reading(contract, attached: "coefficients")
        if reading.order["prototypes"] == nil {
            let roles = reading.order.keys.sorted().joined(separator: ", ")
            throw EdgeKitError.contract("a segmentation contract has an output of the role 'prototypes', not only \(roles)")
        }
    }

    package func result(_ outputs: [Tensor], _ mapping: Transform, _ thresholds: Thresholds) throws -> EdgeResult {
        let kept = try reading.boxes(outputs, thresholds, attached: "coefficients")
        let objects = reading.objects(kept, mapping)
        let prototypes = try prototypes(outputs, kept)
        let masks = objects.boxes.indices.map { i in
            mask(objects.boxes[i], Array(kept.attached?.row(i) ?? []), prototypes, mapping)
        }
        return .instances(Instances(info: reading.info(mapping), objects: objects, masks: masks))
    }

    private func prototypes(_ outputs: [Tensor], _ kept: Candidates) throws -> Tensor {
        let prototypes = try reading.reading(outputs) { try $0.levels("prototypes")[0] }
        let count = kept.attached?.width ?? 0
        if prototypes.shape.count != 4 || prototypes.shape.contains(where: { $0 < 1 }) || (kept.count > 0 && prototypes.shape[1] != count) {
            throw EdgeKitError.contract("prototypes \(prototypes.shown): (1, \(count), rows, columns) is needed")
        }
        try checkFinite(prototypes.data)
        return prototypes
    }

    /// The mask inside a box in original pixels.
    private func mask(_ box: Box, _ weights: [Float], _ prototypes: Tensor, _ mapping: Transform) -> Mask {
        let (rows, columns) = (prototypes.shape[2], prototypes.shape[3])
        let toX = Double(columns) / Double(reading.frame.width)
        let toY = Double(rows) / Double(reading.frame.height)
        let (left, top) = (Int(box.x1.rounded(.down)), Int(box.y1.rounded(.down)))
        let width = max(Int(box.x2.rounded(.up)) - left, 0)
        let height = max(Int(box.y2.rounded(.up)) - top, 0)
        let x = Cells(scale: mapping.scaleX * toX, offset: mapping.offsetX * toX, cells: columns, from: left, to: left + width)
        let y = Cells(scale: mapping.scaleY * toY, offset: mapping.offsetY * toY, cells: rows, from: top, to: top + height)
        var data = [UInt8](repeating: 0, count: width * height)
        if width > 0 && height > 0 && x.count > 0 && y.count > 0 {
            let logits = weighed(weights, prototypes, x, y)
            magnify(logits, x, y, width, into: &data)
        }
        return Mask(left: left, top: top, width: width, height: height, data: data)
    }
}

/// The cells that original pixels touch along one axis, one more on each side.
private struct Cells {
    let first: Int
    let count: Int
    /// Where the middle of the first pixel lies in them, and cells to a pixel.
    let at: Double
    let scale: Double

    init(scale: Double, offset: Double, cells: Int, from low: Int, to high: Int) {
        first = max(Int((Double(low) * scale + offset - 1).rounded(.down)), 0)
        count = min(Int((Double(high) * scale + offset + 1).rounded(.up)), cells) - first
        at = Double(low) * scale + offset - Double(first) + (scale - 1) / 2
        self.scale = scale
    }

    /// The two cells of a pixel, and the share of the second. Beyond the border cells go on.
    func place(_ pixel: Int) -> (Int, Int, Float) {
        let place = at + Double(pixel) * scale
        let low = place.rounded(.down)
        return (Int(low).clamped(0, count - 1), (Int(low) + 1).clamped(0, count - 1), Float(place - low))
    }
}

/// The sum of prototypes times weights in a window: the logits of a mask.
private func weighed(_ weights: [Float], _ prototypes: Tensor, _ x: Cells, _ y: Cells) -> [Float] {
    let (rows, columns) = (prototypes.shape[2], prototypes.shape[3])
    var total = [Float](repeating: 0, count: x.count * y.count)
    total.withUnsafeMutableBufferPointer { total in
        prototypes.data.withUnsafeBufferPointer { data in
            for (k, weight) in weights.enumerated() {
                for row in 0..<y.count {
                    let from = (k * rows + y.first + row) * columns + x.first
                    let to = UnsafeMutableBufferPointer(rebasing: total[row * x.count..<(row + 1) * x.count])
                    let source = UnsafeBufferPointer(rebasing: data[from..<from + x.count])
                    for i in 0..<x.count { to[i] += weight * source[i] }
                }
            }
        }
    }
    return total
}

/// Write where bilinear interpolation between cells is positive.
private func magnify(_ logits: [Float], _ x: Cells, _ y: Cells, _ width: Int, into target: inout [UInt8]) {
    let places = (0..<width).map(x.place)
    let columns = x.count
    var blended = [Float](repeating: 0, count: columns)
    logits.withUnsafeBufferPointer { logits in
        blended.withUnsafeMutableBufferPointer { blended in
            places.withUnsafeBufferPointer { places in
                target.withUnsafeMutableBufferPointer { target in
                    for j in 0..<target.count / width {
                        let (upper, lower, part) = y.place(j)
                        for k in 0..<columns {
                            let (above, below) = (logits[upper * columns + k], logits[lower * columns + k])
                            blended[k] = above * (1 - part) + below * part
                        }
                        for i in 0..<width {
                            let (first, second, share) = places[i]
                            let logit: Float = blended[first] * (1 - share) + blended[second] * share
                            target[j * width + i] = logit > 0 ? 1 : 0
                        }
                    }
                }
            }
        }
    }
}
