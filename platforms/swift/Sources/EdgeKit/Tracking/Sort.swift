/// Options of SORT.
public struct SortOptions: Sendable, Hashable {
    public var common = TrackerOptions(confirmSeconds: 2.0 / 30)
    /// Detections below it are ignored; 0.5 in the paper.
    public var minScore = 0.5
    /// IoU of a detection with where its track is expected; 0.3 in the paper's code.
    public var minIoU = 0.3

    public init() {}
}

extension SortOptions: NamedOptions {
    package static var numbers: [(name: String, path: WritableKeyPath<Self, Double>, most: Double)] {
        [("min_score", \.minScore, 1), ("min_iou", \.minIoU, 1)]
    }
}

/// SORT, with tracks that live on for `lostSeconds` like everyone's (the paper drops them at the first miss).
package struct SortRules: TrackerRules {
    package let options: SortOptions

    package var common: TrackerOptions { options.common }
    package var leastScore: Double { options.minScore }
    package func begins(_ score: Float) -> Bool { score >= Float(options.minScore) }

    package func match(_ similarity: [Float], _ tracks: [Track], _ found: Observed, _ time: Double) -> [Int] {
        var matches = [Int](repeating: -1, count: tracks.count)
        let strong = (0..<found.count).filter { begins(found.scores[$0]) }
        stage(similarity, found.count, Array(tracks.indices), strong, similarity, options.minIoU, &matches)
        return matches
    }
}
