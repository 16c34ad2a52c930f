/// Heatmaps and SimCC are trained on places that count from the centre of the first pixel; edgekit's from its corner.
package let pixelCentre: Float = 0.5

/// Keypoints above this score say where a person is.
private let visible: Float = 0.2

/// Values (n, 2 k or 3 k) as points (n, k, 3); without a third value the score is 1. Throws `Misfit`.
package func points(_ values: Attached, _ keypoints: Int) throws -> Attached {
    if keypoints == 0 || (values.width != 2 * keypoints && values.width != 3 * keypoints) {
        throw Misfit("\(values.width) keypoint values, but \(2 * keypoints) or \(3 * keypoints) are needed")
    }
    if values.width == 3 * keypoints { return values }
    var data: [Float] = []
    for k in stride(from: 0, to: values.data.count, by: 2) { data += [values.data[k], values.data[k + 1], 1] as [Float] }
    return Attached(data: data, width: 3 * keypoints)
}

/// The one person of an input as a candidate: its score is its keypoints' mean, its box is round the sure ones.
///
/// `points` is (k, 3): x, y in input pixels and score. Nobody is there when the score is not above the threshold.
package func onePerson(_ points: [Float], _ frame: InputFrame, above threshold: Double) throws -> Candidates {
    let count = points.count / 3
    if count != frame.keypoints { throw Misfit("\(count) keypoints, but the skeleton names \(frame.keypoints)") }
    try checkFinite(points)
    let scores = (0..<count).map { points[3 * $0 + 2] }
    let score = Float(scores.reduce(0.0) { $0 + Double($1) } / Double(count))
    var found = Candidates(attached: Attached(data: [], width: points.count))
    if !(score > Float(threshold)) { return found }
    let sure = scores.contains { $0 > visible }
    var box = Box(.infinity, .infinity, -.infinity, -.infinity)
    for k in 0..<count where !sure || scores[k] > visible {
        let (x, y) = (points[3 * k], points[3 * k + 1])
        box = Box(min(box.x1, x), min(box.y1, y), max(box.x2, x), max(box.y2, y))
    }
    found.add(box, score, 0, 0)
    found.attached = Attached(data: points, width: points.count)
    return found
}
