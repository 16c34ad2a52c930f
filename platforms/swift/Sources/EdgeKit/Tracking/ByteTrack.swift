/// Options of ByteTrack.
public struct ByteTrackOptions: Sendable, Hashable {
    public var common = TrackerOptions()
    /// Detections from here on are matched first, with all tracks; 0.6 in the paper.
    public var highScore = 0.6
    /// Detections between this and `highScore` are matched with what then is left; 0.1.
    public var lowScore = 0.1
    /// Detections from here on may begin a track.
    public var newScore = 0.7
    /// Of the first matching, IoU times score.
    public var minSimilarity = 0.2
    /// Of the second matching, with weak detections.
    public var minIoU = 0.5
    /// IoU times score of the matching of tentative tracks.
    public var tentativeSimilarity = 0.3

    public init() {}

    package func checkScores() throws {
        try check()
        if !(lowScore <= highScore && highScore <= newScore) {
            throw EdgeKitError.usage("low_score <= high_score <= new_score must hold, not \(lowScore), \(highScore), \(newScore)")
        }
    }
}

extension ByteTrackOptions: NamedOptions {
    package static var numbers: [(name: String, path: WritableKeyPath<Self, Double>, most: Double)] {
        [
            ("high_score", \.highScore, 1), ("low_score", \.lowScore, 1), ("new_score", \.newScore, 1),
            ("min_similarity", \.minSimilarity, 1), ("min_iou", \.minIoU, 1), ("tentative_similarity", \.tentativeSimilarity, 1),
        ]
    }
}

/// The paper's second matching leaves out lost tracks. Here they take part: in a crowd, who comes back into sight is half
/// hidden at first and weakly detected, and would stay lost until nobody stands in front any more.
package struct ByteTrackRules: TrackerRules {
    package let options: ByteTrackOptions

    package var common: TrackerOptions { options.common }
    package var leastScore: Double { options.lowScore }
    package func begins(_ score: Float) -> Bool { score >= Float(options.newScore) }

    package func match(_ similarity: [Float], _ tracks: [Track], _ found: Observed, _ time: Double) -> [Int] {
        match(similarity, tracks, found, closeness: closeness(similarity, found))
    }

    /// Similarity (n, m) of the first and third matching: IoU times score.
    package func closeness(_ similarity: [Float], _ found: Observed) -> [Float] {
        var fused = similarity
        for i in stride(from: 0, to: fused.count, by: max(found.count, 1)) {
            for j in 0..<found.count { fused[i + j] *= found.scores[j] }
        }
        return fused
    }

    package func match(_ similarity: [Float], _ tracks: [Track], _ found: Observed, closeness: [Float]) -> [Int] {
        let width = found.count
        var matches = [Int](repeating: -1, count: tracks.count)
        var isHigh = found.scores.map { $0 >= Float(options.highScore) }
        func strong() -> [Int] { (0..<width).filter { isHigh[$0] } }
        let known = tracks.indices.filter { tracks[$0].state != .tentative }
        stage(closeness, width, known, strong(), closeness, options.minSimilarity, &matches)
        let weak = (0..<width).filter { !isHigh[$0] && found.scores[$0] > Float(options.lowScore) }
        stage(similarity, width, known.filter { matches[$0] < 0 }, weak, similarity, options.minIoU, &matches)
        let tentative = tracks.indices.filter { tracks[$0].state == .tentative }
        if tentative.isEmpty { return matches }
        for j in matches where j >= 0 { isHigh[j] = false }
        stage(closeness, width, tentative, strong(), closeness, options.tentativeSimilarity, &matches)
        return matches
    }
}
