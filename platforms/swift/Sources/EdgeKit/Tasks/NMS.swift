/// Below this sum of areas OpenCV takes any two boxes for the same one.
private let nothing = Double.ulpOfOne

/// Indices of the boxes that survive greedy NMS, best score first.
///
/// A box is dropped when its IoU with a better, kept box of the same class (any class when `classAgnostic`) is above
/// `limit`. Equal to `cv2.dnn.NMSBoxesBatched`, which Python's runtime calls: boxes without an area count as one.
package func nonMaximumSuppression(
    _ boxes: [Box], _ scores: [Float], _ classIds: [Int], _ limit: Float, classAgnostic: Bool = false
) -> [Int] {
    var kept: [Int] = []
    // Kept boxes side by side, which is faster to go through than boxes all over the place.
    var sides: [SIMD4<Double>] = []
    var areas: [Double] = []
    var kinds: [Int] = []
    next: for i in descending(scores).prefix(mostCandidates) {
        let box = boxes[i]
        let (x1, y1) = (Double(box.x1), Double(box.y1))
        let (x2, y2) = (max(Double(box.x2), x1), max(Double(box.y2), y1))
        let area = (x2 - x1) * (y2 - y1)
        let kind = classAgnostic ? 0 : classIds[i]
        for k in kept.indices {
            let sum = area + areas[k]
            if sum <= nothing {
                if limit < 1 { continue next }
                continue
            }
            if kinds[k] != kind { continue }
            let other = sides[k]
            let (width, height) = (min(x2, other.z) - max(x1, other.x), min(y2, other.w) - max(y1, other.y))
            if width <= 0 || height <= 0 { continue }
            let shared = width * height
            if 1 - Float(1 - Float(shared / (sum - shared))) > limit { continue next }
        }
        kept.append(i)
        sides.append(SIMD4(x1, y1, x2, y2))
        areas.append(area)
        kinds.append(kind)
    }
    return kept
}
