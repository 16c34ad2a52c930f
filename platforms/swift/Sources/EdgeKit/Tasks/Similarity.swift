import Foundation

/// IoU of each box of one set with each of another, (n, m) row after row; 0 where empty.
package func boxIoU(_ first: [Box], _ second: [Box]) -> [Float] {
    let areas = second.map(\.area)
    var result = [Float](repeating: 0, count: first.count * second.count)
    result.withUnsafeMutableBufferPointer { result in
        second.withUnsafeBufferPointer { second in
            for i in first.indices {
                let one = first[i]
                let own = one.area
                for j in second.indices {
                    let other = second[j]
                    let width = min(one.x2, other.x2) - max(one.x1, other.x1)
                    if !(width > 0) { continue }
                    let height = min(one.y2, other.y2) - max(one.y1, other.y1)
                    if !(height > 0) { continue }
                    let overlap = width * height
                    let union = own + areas[j] - overlap
                    result[i * second.count + j] = union > 0 ? overlap / union : overlap
                }
            }
        }
    }
    return result
}

/// What a distance is divided by for each keypoint: (2 sigma)^2.
private func spread(_ sigmas: [Double]) -> [Double] {
    sigmas.map { sigma in
        let double = 2 * Float(sigma)
        return Double(double * double)
    }
}

/// OKS of two poses with the first one's area: as COCO scores keypoints, all counted alike.
private func oks(_ first: [Keypoint], _ second: [Keypoint], _ area: Float, _ spread: [Double]) -> Float {
    var sum = 0.0
    for k in spread.indices {
        let (dx, dy) = (Double(first[k].x) - Double(second[k].x), Double(first[k].y) - Double(second[k].y))
        sum += exp(-(dx * dx + dy * dy) / (2 * spread[k] * Double(max(area, 1e-6))))
    }
    return Float(sum / Double(spread.count))
}

/// Object keypoint similarity of every pose of one set with every pose of another, (n, m) row after row.
package func keypointSimilarity(_ first: [[Keypoint]], _ second: [[Keypoint]], areas: [Float], sigmas: [Double]) -> [Float] {
    let spread = spread(sigmas)
    return first.indices.flatMap { i in second.map { oks(first[i], $0, areas[i], spread) } }
}

/// Indices of the poses that survive greedy NMS by OKS, best score first.
///
/// Boxes of one person differ more than its keypoints do, so that top-down pipelines drop their doubles by OKS.
///
/// - Parameters:
///   - areas: Of each object in square pixels; about 0.53 of a person's box.
///   - sigmas: The spread of every keypoint; see `Skeleton.sigmas`.
///   - limit: OKS above which the worse of two poses is dropped.
public func keypointSuppression(
    _ keypoints: [[Keypoint]], scores: [Float], areas: [Float], sigmas: [Double], limit: Double
) -> [Int] {
    let spread = spread(sigmas)
    var kept: [Int] = []
    for i in descending(scores)
    where kept.allSatisfy({ oks(keypoints[$0], keypoints[i], areas[$0], spread) <= Float(limit) }) { kept.append(i) }
    return kept
}
