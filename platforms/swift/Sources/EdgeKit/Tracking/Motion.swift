/// Constant-velocity Kalman filter of one track, in continuous time.
///
/// State: centre x, centre y, width, height and their velocities, with noise in proportion to the size of the object
/// (DeepSORT, arXiv 1703.07402; width and height each their own as in BoT-SORT, arXiv 2206.14651). All noise is diagonal
/// per coordinate, so the 8x8 filter falls apart into four independent filters of (position, velocity), one a lane.
///
/// The papers count in frames of about 30 per second. Here the same noise is a rate per second, so that predicting 0.2 s
/// once or 0.02 s ten times is the same.
package struct Motion: Sendable {
    package typealias Four = SIMD4<Double>

    private var position: Four
    private var velocity = Four.zero
    private var variance: Four
    private var covariance = Four.zero
    private var spread: Four
    /// (w, h, w, h), at least a pixel, lest an empty box be taken for a perfect measurement.
    private var size: Four

    /// Frames per second of the papers' per-frame weights.
    private static let frameRate = 25.0
    /// Standard deviation of a detection, in sizes; likewise what a position drifts by in one frame.
    private static let measurement = 1.0 / 20
    /// What the velocity changes by in one frame, in sizes per frame.
    private static let acceleration = 1.0 / 160
    /// Most that an unseen object is taken to grow or shrink.
    private static let stretch = 4.0

    private static let drift = measurement * measurement * frameRate
    private static let push = (acceleration * frameRate) * (acceleration * frameRate) * frameRate
    private static let start = (10 * acceleration * frameRate) * (10 * acceleration * frameRate)

    /// Centre and size of a box.
    package static func measured(_ box: Box) -> Four {
        Four(Double((box.x1 + box.x2) * 0.5), Double((box.y1 + box.y2) * 0.5), Double(box.width), Double(box.height))
    }

    /// The state of a new track from its first detection.
    package init(_ box: Box) {
        position = Motion.measured(box)
        size = Motion.sizes(position)
        let square: Four = size * size
        variance = square * (4 * Motion.measurement * Motion.measurement)
        spread = square * Motion.start
    }

    private static func sizes(_ position: Four) -> Four {
        let (width, height) = (max(position.z, 1), max(position.w, 1))
        return Four(width, height, width, height)
    }

    /// Where the object is taken to be.
    package var box: Box {
        let (halfWidth, halfHeight) = (position.z * 0.5, position.w * 0.5)
        return Box(
            Float(position.x - halfWidth), Float(position.y - halfHeight), Float(position.x + halfWidth), Float(position.y + halfHeight))
    }

    /// The state after `time` seconds.
    package func predicted(_ time: Double) -> Motion {
        var next = self
        let square: Four = size * size
        let push: Four = square * Motion.push * time
        next.position = position + velocity * time
        next.position.z = next.position.z.clamped(size.z / Motion.stretch, size.z * Motion.stretch)
        next.position.w = next.position.w.clamped(size.w / Motion.stretch, size.w * Motion.stretch)
        let grown: Four = spread * time
        let drift: Four = square * Motion.drift
        let pushed: Four = push * time
        let rate: Four = covariance * 2 + grown + drift + pushed * (1.0 / 3)
        next.variance = variance + rate * time
        next.covariance = covariance + (grown + pushed * 0.5)
        next.spread = spread + push
        return next
    }

    /// Correct the state by a measurement, as `measured` gives it.
    package mutating func correct(_ measured: Four) {
        let noise: Four = size * Motion.measurement
        let total: Four = variance + noise * noise
        let gain: Four = variance / total
        let pull: Four = covariance / total
        let error: Four = measured - position
        let left: Four = Four.one - gain
        position += gain * error
        velocity += pull * error
        variance = left * variance
        spread -= pull * covariance
        covariance = left * covariance
        size = Motion.sizes(position)
    }
}
