/// In what trackers differ: the matching of detections with tracks.
package protocol TrackerRules: Sendable {
    var common: TrackerOptions { get }
    /// The lowest score that is of use.
    var leastScore: Double { get }
    /// Whether looks are compared.
    var usesEmbeddings: Bool { get }

    /// Whether a detection may begin a track when none takes it.
    func begins(_ score: Float) -> Bool

    /// The detection of each track, -1 without one. `similarity` (n, m) is the IoU of where the tracks are expected with
    /// the detections; 0 where they must not match.
    func match(_ similarity: [Float], _ tracks: [Track], _ found: Observed, _ time: Double) -> [Int]

    /// Correct the expected motion of a track by its detection; the looks of the track may change, too.
    func correct(_ track: inout Track, _ motion: inout Motion, _ found: Observed, _ row: Int, _ time: Double)

    /// Note the time of the update before this one.
    mutating func passed(_ time: Double)

    mutating func reset()
}

extension TrackerRules {
    package var usesEmbeddings: Bool { false }

    package func correct(_ track: inout Track, _ motion: inout Motion, _ found: Observed, _ row: Int, _ time: Double) {
        motion.correct(Motion.measured(found.boxes[row]))
    }

    package mutating func passed(_ time: Double) {}

    package mutating func reset() {}

    /// Set similarities (n, m) of tracks and detections of different classes to 0, where classes count.
    package func keepApart(_ similarity: inout [Float], _ tracks: [Track], _ found: Observed) {
        if !common.classAware { return }
        for i in tracks.indices {
            for j in 0..<found.count where found.classIds[j] != tracks[i].classId { similarity[i * found.count + j] = 0 }
        }
    }

    /// Match these tracks (rows) with these detections (columns): the pairs of the best total gain that are close enough.
    ///
    /// What is not close is rejected after the assignment, not before (SORT, section 3.3; ByteTrack, section 4.1).
    package func stage(
        _ gains: [Float], _ width: Int, _ rows: [Int], _ columns: [Int], _ closeness: [Float], _ least: Double, _ matches: inout [Int]
    ) {
        if rows.isEmpty || columns.isEmpty { return }
        let some = rows.count * columns.count == gains.count ? gains : rows.flatMap { row in columns.map { gains[row * width + $0] } }
        for (i, j) in Assignment.assign(some, rows.count, columns.count).enumerated() where j >= 0 {
            if closeness[rows[i] * width + columns[j]] >= Float(least) { matches[rows[i]] = columns[j] }
        }
    }
}
