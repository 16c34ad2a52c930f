import Foundation

/// The One-Euro filter (Casiez, Roussel, Vogel, CHI 2012) on the keypoints of a video: steady when slow, no lag when fast.
///
/// Places are low-pass filtered with a cutoff of `cutoff + beta * speed`, the speed in object sizes per second, so that
/// near and far people are smoothed alike.
public struct OneEuro: Sendable {
    /// Hz at rest; lower is steadier.
    public let cutoff: Double
    /// How much the cutoff grows with the speed; higher lags less.
    public let beta: Double
    /// Hz of the filter of the speed; 1 in the paper.
    public let speedCutoff: Double
    /// A track that was away for longer starts anew.
    public let forgetSeconds: Double

    /// The last filtered state of a track: positions in pixels and speeds in pixels/s.
    private struct Past: Sendable {
        let time: Double
        let places: [SIMD2<Double>]
        let speeds: [SIMD2<Double>]
    }

    private var past: [Int: Past] = [:]

    /// - Throws: `EdgeKitError.usage`: a value that is not positive (`beta` may be 0).
    public init(cutoff: Double = 1, beta: Double = 4, speedCutoff: Double = 1, forgetSeconds: Double = 1) throws {
        for (name, value) in [("cutoff", cutoff), ("speedCutoff", speedCutoff), ("forgetSeconds", forgetSeconds)] where !(value > 0) {
            throw EdgeKitError.usage("\(name) must be positive, not \(value)")
        }
        if !(beta >= 0) { throw EdgeKitError.usage("beta must be 0 or more, not \(beta)") }
        (self.cutoff, self.beta, self.speedCutoff, self.forgetSeconds) = (cutoff, beta, speedCutoff, forgetSeconds)
    }

    /// The poses of one frame, smoothed; scores stay as they are.
    ///
    /// - Throws: `EdgeKitError.usage`: no track ids or no time.
    public mutating func smooth(_ poses: Poses) throws -> Poses {
        guard let ids = poses.objects.trackIds, let time = poses.info.time else {
            throw EdgeKitError.usage("smoothing needs track ids and the time of the frame; take the results of results(of:tracking:)")
        }
        var smoothed = poses
        for (row, id) in ids.enumerated() {
            let box = poses.objects.boxes[row]
            filter(id, &smoothed.keypoints[row], time, Double(max(box.width * box.height, 1)).squareRoot())
        }
        past = past.filter { time - $0.value.time <= forgetSeconds }
        return smoothed
    }

    /// Smooth the points of a track in place.
    private mutating func filter(_ id: Int, _ points: inout [Keypoint], _ time: Double, _ size: Double) {
        var places = points.map { SIMD2(Double($0.x), Double($0.y)) }
        var speeds = [SIMD2<Double>](repeating: .zero, count: points.count)
        if let last = past[id], time > last.time, time - last.time <= forgetSeconds, last.places.count == places.count {
            let passed = time - last.time
            let weight = OneEuro.weight(speedCutoff, passed)
            for k in places.indices {
                speeds[k] = last.speeds[k] + weight * ((places[k] - last.places[k]) / passed - last.speeds[k])
                let speed = hypot(speeds[k].x, speeds[k].y) / size
                let share = OneEuro.weight(cutoff + beta * speed, passed)
                places[k] = last.places[k] + share * (places[k] - last.places[k])
                (points[k].x, points[k].y) = (Float(places[k].x), Float(places[k].y))
            }
        }
        past[id] = Past(time: time, places: places, speeds: speeds)
    }

    /// Weight of a new value in a first-order low-pass filter, after the given seconds.
    private static func weight(_ cutoff: Double, _ passed: Double) -> Double {
        let step = 2 * Double.pi * cutoff * passed
        return step / (step + 1)
    }
}
