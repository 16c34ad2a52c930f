import Foundation

/// Options of OC-SORT.
public struct OCSortOptions: Sendable, Hashable {
    public var common = TrackerOptions(confirmSeconds: 2.0 / 30)
    /// Detections below it are ignored.
    public var minScore = 0.6
    /// IoU of a detection with where its track is expected, or was last seen.
    public var minIoU = 0.3
    /// What a detection straight ahead gains over one straight behind, times its score.
    public var directionWeight = 0.2
    /// Over how many seconds a direction is measured.
    public var directionSeconds = 0.1

    public init() {}
}

extension OCSortOptions: NamedOptions {
    package static var numbers: [(name: String, path: WritableKeyPath<Self, Double>, most: Double)] {
        [
            ("min_score", \.minScore, 1), ("min_iou", \.minIoU, 1), ("direction_weight", \.directionWeight, 1),
            ("direction_seconds", \.directionSeconds, .infinity),
        ]
    }
}

/// Observation-centric momentum (OCM), recovery (OCR) and re-update (ORU): filter errors do not build up when lost.
package struct OCSortRules: TrackerRules {
    package let options: OCSortOptions
    /// Times of the updates that a lost track may have missed.
    private var updates: [Double] = []

    package init(options: OCSortOptions) { self.options = options }

    package var common: TrackerOptions { options.common }
    package var leastScore: Double { options.minScore }
    package func begins(_ score: Float) -> Bool { score >= Float(options.minScore) }

    package mutating func reset() { updates = [] }

    package mutating func passed(_ time: Double) {
        let oldest = time - common.lostSeconds - 1
        updates.removeAll { $0 <= oldest }
        updates.append(time)
    }

    package func match(_ similarity: [Float], _ tracks: [Track], _ found: Observed, _ time: Double) -> [Int] {
        var matches = [Int](repeating: -1, count: tracks.count)
        var isStrong = found.scores.map(begins)
        let gains = withMomentum(similarity, tracks, found, time)
        let some = (0..<found.count).filter { isStrong[$0] }
        stage(gains, found.count, Array(tracks.indices), some, similarity, options.minIoU, &matches)
        for j in matches where j >= 0 { isStrong[j] = false }
        let rows = matches.indices.filter { matches[$0] < 0 }
        let columns = (0..<found.count).filter { isStrong[$0] }
        if rows.isEmpty || columns.isEmpty { return matches }
        // OCR: perhaps it stayed where it was last seen.
        var again = boxIoU(tracks.map(\.box), found.boxes)
        keepApart(&again, tracks, found)
        stage(again, found.count, rows, columns, again, options.minIoU, &matches)
        return matches
    }

    /// OCM: the similarity (n, m) with, where there is any, how well a detection lies in its track's direction.
    ///
    /// The direction of a track is from where it was `directionSeconds` before it was last seen to there, and the
    /// direction to a detection is from where it was that long before now. Only where there is a choice.
    private func withMomentum(_ similarity: [Float], _ tracks: [Track], _ found: Observed, _ time: Double) -> [Float] {
        let ago = options.directionSeconds
        if options.directionWeight == 0 || Assignment.uncontested(similarity, tracks.count, found.count) != nil { return similarity }
        var gains = similarity
        for (i, track) in tracks.enumerated() {
            let row = i * found.count
            if track.trajectory.count < 2 {
                // Without a direction there is no bonus, and no gain below the least.
                for j in row..<row + found.count where gains[j] != 0 { gains[j] = max(gains[j], 1e-6) }
                continue
            }
            let earlier = track.trajectory.middle(atOrBefore: track.seen - ago + 1e-6)
            let anchor = track.trajectory.middle(atOrBefore: time - ago + 1e-6)
            let heading = direction(track.box.middle - earlier)
            for j in 0..<found.count where similarity[row + j] != 0 {
                let wanted = direction(found.boxes[j].middle - anchor)
                let cosine = heading.x * wanted.x + heading.y * wanted.y
                let angle = acos(cosine.clamped(-1, 1))
                let bonus = Float((0.5 - Double(angle) / Double.pi) * options.directionWeight * Double(found.scores[j]))
                gains[row + j] = max(similarity[row + j] + bonus, 1e-6)
            }
        }
        return gains
    }

    package func correct(_ track: inout Track, _ motion: inout Motion, _ found: Observed, _ row: Int, _ time: Double) {
        if track.state == .lost { motion = reupdated(track, found.boxes[row], time) }
        motion.correct(Motion.measured(found.boxes[row]))
    }

    /// ORU: the expected state as if the lost track had been seen on a straight way to where it is now.
    ///
    /// A virtual observation for each update that missed it; the error that the filter piled up meanwhile is gone.
    private func reupdated(_ track: Track, _ box: Box, _ time: Double) -> Motion {
        let (start, goal) = (Motion.measured(track.box), Motion.measured(box))
        var motion = track.motion
        var since = track.seen
        for moment in updates where moment > track.seen {
            let share = (moment - track.seen) / (time - track.seen)
            motion = motion.predicted(moment - since)
            motion.correct(start + share * (goal - start))
            since = moment
        }
        return motion.predicted(time - since)
    }
}

/// A direction of length 1, or near 0 where there is none.
private func direction(_ way: SIMD2<Float>) -> SIMD2<Float> {
    let square = Double(way.x) * Double(way.x) + Double(way.y) * Double(way.y)
    return way / (Float(square.squareRoot()) + 1e-6)
}
