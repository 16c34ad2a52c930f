import Foundation

extension OrientedBox {
    /// The smallest upright box around it.
    public var enclosing: Box {
        let (c, s) = (cos(angle), sin(angle))
        let reachX = abs(c * width / 2) + abs(s * height / 2)
        let reachY = abs(s * width / 2) + abs(c * height / 2)
        return Box(x - reachX, y - reachY, x + reachX, y + reachY)
    }

    /// The four corners, in order around the box.
    public var corners: [(x: Float, y: Float)] {
        let (c, s) = (cos(angle), sin(angle))
        return [(-1, -1), (1, -1), (1, 1), (-1, 1)].map { (a: Float, b: Float) in
            (x + (a * c * width - b * s * height) / 2, y + (a * s * width + b * c * height) / 2)
        }
    }

    /// The same box with the longer side as width and the angle in -pi/2 ..< pi/2.
    package var canonical: OrientedBox {
        let isTall = height > width
        let turned = Double(angle) + (isTall ? Double.pi / 2 : 0) + Double.pi / 2
        var angle = Float(turned - (turned / Double.pi).rounded(.down) * Double.pi - Double.pi / 2)
        if Double(angle) >= Double.pi / 2 { angle = -Float.pi / 2 }
        return OrientedBox(x: x, y: y, width: max(width, height), height: min(width, height), angle: angle)
    }

    /// The box of the input in pixels of the frame, also outside of it.
    ///
    /// Both sides are mapped as vectors. Where the frame was stretched they are no longer at right angles; then the result
    /// is the rectangle whose sides are the closest to them (least squares), so that a long side keeps its direction.
    package func original(_ mapping: Transform) -> OrientedBox {
        let (scaleX, scaleY) = (mapping.scaleX, mapping.scaleY)
        let (c, s) = (cos(Double(angle)), sin(Double(angle)))
        let along = (c * Double(width) / 2 / scaleX, s * Double(width) / 2 / scaleY)
        let across = (-s * Double(height) / 2 / scaleX, c * Double(height) / 2 / scaleY)
        let doubleX = along.0 * along.0 - along.1 * along.1 - (across.0 * across.0 - across.1 * across.1)
        let doubleY = 2 * along.0 * along.1 - 2 * across.0 * across.1
        let turned = doubleX != 0 || doubleY != 0 ? atan2(doubleY, doubleX) / 2 : Double(angle)
        let (x1, y1) = (cos(turned), sin(turned))
        return OrientedBox(
            x: mapping.original(x: x), y: mapping.original(y: y),
            width: Float(2 * abs(along.0 * x1 + along.1 * y1)), height: Float(2 * abs(-across.0 * y1 + across.1 * x1)),
            angle: Float(turned))
    }
}

/// Candidates that suppression looks at, best first.
package let mostCandidates = 30_000

private let tiny = 1e-9

/// Variance along x, along y, and covariance of points spread evenly over a box.
private func covariance(_ box: OrientedBox) -> (Double, Double, Double) {
    let (c, s) = (cos(Double(box.angle)), sin(Double(box.angle)))
    let wide = Double(box.width) * Double(box.width) / 12
    let high = Double(box.height) * Double(box.height) / 12
    return (wide * c * c + high * s * s, wide * s * s + high * c * c, (wide - high) * c * s)
}

/// Indices of the oriented boxes that survive greedy NMS by ProbIoU (Llerena et al. 2021), best score first.
///
/// ProbIoU is one minus the Hellinger distance of the boxes' Gaussians.
package func rotatedSuppression(
    _ boxes: [OrientedBox], _ scores: [Float], _ classIds: [Int], _ limit: Float, classAgnostic: Bool
) -> [Int] {
    let spread = boxes.map(covariance)
    func similarity(_ i: Int, _ j: Int) -> Float {
        let ((a1, b1, c1), (a2, b2, c2)) = (spread[i], spread[j])
        let (a, b, c) = (a1 + a2, b1 + b2, c1 + c2)
        let (x, y) = (Double(boxes[i].x) - Double(boxes[j].x), Double(boxes[i].y) - Double(boxes[j].y))
        let joint = max(a * b - c * c, tiny)
        let apart = (a * y * y + b * x * x - 2 * c * x * y) / (4 * joint)
        let alone = (max(a1 * b1 - c1 * c1, tiny) * max(a2 * b2 - c2 * c2, tiny)).squareRoot()
        let shape = log(max(joint / (4 * alone), 1)) / 2
        return Float(1 - (-expm1(-(apart + shape))).squareRoot())
    }
    var kept: [Int] = []
    for i in descending(scores).prefix(mostCandidates)
    where !kept.contains(where: { (classAgnostic || classIds[$0] == classIds[i]) && similarity($0, i) > limit }) {
        kept.append(i)
    }
    return kept
}
