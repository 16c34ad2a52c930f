/// Options of BoT-SORT.
@dynamicMemberLookup
public struct BoTSortOptions: Sendable, Hashable {
    /// What it shares with ByteTrack; its members can be read and written here, too.
    public var byteTrack = ByteTrackOptions()
    /// Half the cosine distance up to which two appearances may be one object's.
    public var maxDistance = 0.25
    /// IoU below which appearance is not asked.
    public var minProximity = 0.5
    /// Share of its old appearance that a track keeps at each detection.
    public var memory = 0.9

    public init() {}

    public subscript<T>(dynamicMember path: WritableKeyPath<ByteTrackOptions, T>) -> T {
        get { byteTrack[keyPath: path] }
        set { byteTrack[keyPath: path] = newValue }
    }

    package func checkScores() throws {
        try check()
        try byteTrack.checkScores()
    }
}

extension BoTSortOptions: NamedOptions {
    package var common: TrackerOptions {
        get { byteTrack.common }
        set { byteTrack.common = newValue }
    }

    package static var numbers: [(name: String, path: WritableKeyPath<Self, Double>, most: Double)] {
        let own: WritableKeyPath<Self, ByteTrackOptions> = \.byteTrack
        let inherited = ByteTrackOptions.numbers.map { (name: $0.name, path: own.appending(path: $0.path), most: $0.most) }
        return inherited + [
            ("max_distance", \.maxDistance, 1), ("min_proximity", \.minProximity, 1), ("memory", \.memory, 1),
        ]
    }

    /// This package does not look at images.
    package static var words: [String: String] { ["camera_motion": "off"] }
}

/// Without embeddings it does without appearance. It does not look at images: the camera should stand still.
package struct BoTSortRules: TrackerRules {
    package let options: BoTSortOptions

    private var base: ByteTrackRules { ByteTrackRules(options: options.byteTrack) }
    package var common: TrackerOptions { options.common }
    package var leastScore: Double { base.leastScore }
    package var usesEmbeddings: Bool { true }
    package func begins(_ score: Float) -> Bool { base.begins(score) }

    package func match(_ similarity: [Float], _ tracks: [Track], _ found: Observed, _ time: Double) -> [Int] {
        var closeness = base.closeness(similarity, found)
        if let embeddings = found.embeddings {
            let least = Float(1 - options.maxDistance)
            for (i, track) in tracks.enumerated() {
                guard let own = track.embedding, own.contains(where: { $0 != 0 }) else { continue }
                for j in 0..<found.count where similarity[i * found.count + j] >= Float(options.minProximity) {
                    let product = zip(own, embeddings[j]).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
                    let alike = 0.5 + 0.5 * Float(product)  // 1 - half the cosine distance
                    if alike >= least { closeness[i * found.count + j] = max(closeness[i * found.count + j], alike) }
                }
            }
        }
        return base.match(similarity, tracks, found, closeness: closeness)
    }

    package func correct(_ track: inout Track, _ motion: inout Motion, _ found: Observed, _ row: Int, _ time: Double) {
        // Weak detections are matched by place alone and are mostly half hidden: what they look like is not learnt.
        if let fresh = found.embeddings?[row], found.scores[row] >= Float(options.highScore) {
            if let old = track.embedding, old.contains(where: { $0 != 0 }) {
                let share = Float(options.memory)
                track.embedding = unit(zip(old, fresh).map { share * $0 + (1 - share) * $1 })
            } else {
                track.embedding = unit(fresh)
            }
        }
        motion.correct(Motion.measured(found.boxes[row]))
    }
}
