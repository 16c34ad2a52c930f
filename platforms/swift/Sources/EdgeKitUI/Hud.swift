import EdgeKit

/// Figures of the last frames, for a display over the camera: medians in milliseconds, and frames a second.
public struct Hud: Sendable {
    /// How many frames the figures are of.
    public static let frames = 60

    private var seen: [Timings] = []
    private var times: [Double] = []

    public init() {}

    /// - Parameter seconds: When the result came, on any clock that runs forward.
    public mutating func add(_ timings: Timings, at seconds: Double) {
        seen = seen.suffix(Hud.frames - 1) + [timings]
        times = times.suffix(Hud.frames - 1) + [seconds]
    }

    /// Before, in and after the engine; nil before the first frame.
    public var prepare: Double? { median(\.pre) }
    public var infer: Double? { median(\.inference) }
    public var decode: Double? { median(\.post) }

    /// Nil for fewer than three frames.
    public var framesPerSecond: Double? {
        guard times.count > 2, let first = times.first, let last = times.last, last > first else { return nil }
        return Double(times.count - 1) / (last - first)
    }

    private func median(_ part: KeyPath<Timings, Double>) -> Double? {
        seen.isEmpty ? nil : seen.map { $0[keyPath: part] }.sorted()[seen.count / 2]
    }
}
