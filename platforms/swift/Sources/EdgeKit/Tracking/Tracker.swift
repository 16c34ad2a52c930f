/// Follows the objects of ONE stream; make another for each further stream.
///
/// A value: a copy goes its own way. Times are in seconds on any clock that runs forward.
public struct Tracker: Sendable {
    private var rules: any TrackerRules
    private var tracks: [Track] = []
    private var time: Double?
    private var nextId = 1
    private var dimension = 0

    /// Seconds that time stamps may be off, from rounding to milliseconds.
    private static let clock = 1e-3

    package init(_ rules: any TrackerRules) { self.rules = rules }

    /// SORT (Bewley et al., arXiv 1602.00763): the baseline.
    public static var sort: Tracker { Tracker(SortRules(options: SortOptions())) }
    /// ByteTrack (Zhang et al., arXiv 2110.06864): the weak detections count, too.
    public static var byteTrack: Tracker { Tracker(ByteTrackRules(options: ByteTrackOptions())) }
    /// OC-SORT (Cao et al., arXiv 2203.14360): for objects that change direction and hide.
    public static var ocSort: Tracker { Tracker(OCSortRules(options: OCSortOptions())) }
    /// BoT-SORT (Aharon et al., arXiv 2206.14651) without camera motion: ByteTrack with, given embeddings, appearance.
    public static var botSort: Tracker { Tracker(BoTSortRules(options: BoTSortOptions())) }

    /// - Throws: `EdgeKitError.usage`: a value out of range. Likewise the next three.
    public static func sort(_ options: SortOptions) throws -> Tracker {
        try options.check()
        return Tracker(SortRules(options: options))
    }

    public static func byteTrack(_ options: ByteTrackOptions) throws -> Tracker {
        try options.checkScores()
        return Tracker(ByteTrackRules(options: options))
    }

    public static func ocSort(_ options: OCSortOptions) throws -> Tracker {
        try options.check()
        return Tracker(OCSortRules(options: options))
    }

    public static func botSort(_ options: BoTSortOptions) throws -> Tracker {
        try options.checkScores()
        return Tracker(BoTSortRules(options: options))
    }

    /// A tracker by the name that manifests and Python give it, with options likewise.
    ///
    /// - Throws: `EdgeKitError.usage`: no such tracker or option, or a value out of range.
    public init(named name: String, options: [String: OptionValue] = [:]) throws {
        switch name {
        case "sort": self = try .sort(SortOptions(named: options))
        case "bytetrack": self = try .byteTrack(ByteTrackOptions(named: options))
        case "ocsort": self = try .ocSort(OCSortOptions(named: options))
        case "botsort": self = try .botSort(BoTSortOptions(named: options))
        default: throw EdgeKitError.usage("tracker \(choices(name, ["botsort", "bytetrack", "ocsort", "sort"]))")
        }
    }

    /// The lowest score that this tracker can use: the threshold to run a detector with.
    public var leastScore: Double { rules.leastScore }

    /// Forget everything, for a new stream; ids count from 1 again.
    public mutating func reset() {
        var rules = rules
        rules.reset()
        self = Tracker(rules)
    }

    /// Match the detections of a frame with the tracks.
    ///
    /// - Parameters:
    ///   - boxes: In pixels, in any order; `scores` in 0..1 and `classIds` have one entry for each.
    ///   - embeddings: The looks of each detection, for BoT-SORT; others ignore it.
    ///   - time: Of the frame, in seconds.
    /// - Throws: `EdgeKitError.usage`: arrays that do not fit together, NaN, or a time that is not later than the last
    ///   update's. The tracker is then as it was.
    public mutating func update(
        boxes: [Box], scores: [Float], classIds: [Int], embeddings: [[Float]]? = nil, time: Double
    ) throws -> Tracks {
        let found = try Observed(boxes, scores, classIds, rules.usesEmbeddings ? embeddings : nil)
        let size = found.embeddings?.first?.count ?? 0
        if size > 0 && dimension > 0 && size != dimension {
            throw EdgeKitError.usage("embeddings must keep their dimension: \(dimension) so far, now \(size); reset() the tracker for another stream")
        }
        let isFirst = try advance(to: time)
        if size > 0 { dimension = size }
        tracks.removeAll { time - $0.seen > rules.common.lostSeconds + Tracker.clock }
        let expected = tracks.map { $0.motion.predicted(time - $0.seen) }
        var matches = [Int](repeating: -1, count: tracks.count)
        if !tracks.isEmpty && found.count > 0 {
            var similarity = boxIoU(expected.map(\.box), found.boxes)
            rules.keepApart(&similarity, tracks, found)
            matches = rules.match(similarity, tracks, found, time)
        }
        return apply(time, found, matches, expected, isFirst)
    }

    /// Follow the objects of a result.
    ///
    /// - Throws: `EdgeKitError.usage`: a result without boxes, or as `update(boxes:...)`.
    public mutating func update(_ result: EdgeResult, time: Double) throws -> Tracks {
        guard let objects = result.objects else { throw EdgeKitError.usage("this result has no boxes, so there is nothing to track") }
        return try update(boxes: objects.boxes, scores: objects.scores, classIds: objects.classIds, time: time)
    }

    /// Where the tracks are expected to be, for a frame in which nothing was detected on purpose. Nothing counts as missed.
    ///
    /// - Throws: `EdgeKitError.usage`: a time before that of the last update.
    public func predict(time: Double) throws -> Tracks {
        try checkTime(time)
        if let last = self.time, time < last {
            throw EdgeKitError.usage("time must not be before that of the last update, \(last) s, but is \(time) s")
        }
        let all = tracks.filter { time - $0.seen <= rules.common.lostSeconds + Tracker.clock }.map {
            seen($0, at: time, box: $0.motion.predicted(time - $0.seen).box, gap: 0, detection: nil)
        }
        return Tracks(time: time, all: all)
    }

    /// Where a track was seen, oldest first: the newest `trajectoryPoints` of it.
    ///
    /// - Throws: `EdgeKitError.usage`: no track of that id is alive.
    public func trajectory(of id: Int) throws -> [(time: Double, box: Box)] {
        guard id > 0, let track = tracks.first(where: { $0.id == id }) else {
            let alive = tracks.map(\.id).filter { $0 > 0 }.sorted().map(String.init)
            throw EdgeKitError.usage("track \(choices(String(id), alive)); tracks are forgotten when they end")
        }
        return track.trajectory.observations
    }

    private func checkTime(_ time: Double) throws {
        if !time.isFinite { throw EdgeKitError.usage("time must be a finite number of seconds, not \(time)") }
    }

    /// Set the clock; true for the first update of the stream.
    private mutating func advance(to time: Double) throws -> Bool {
        try checkTime(time)
        if let last = self.time, !(time > last) {
            throw EdgeKitError.usage("time must be later than that of the last update, \(last) s, but is \(time) s; reset() the tracker for another stream")
        }
        if let last = self.time { rules.passed(last) }
        defer { self.time = time }
        return self.time == nil
    }

    /// Make the matches part of the tracks, begin and end tracks, and say what there is now.
    private mutating func apply(_ time: Double, _ found: Observed, _ matches: [Int], _ expected: [Motion], _ isFirst: Bool) -> Tracks {
        var used = [Bool](repeating: false, count: found.count)
        var after: [Track] = []
        after.reserveCapacity(tracks.count + found.count)
        var all: [TrackedObject] = []
        var places: [(box: Box, gap: Double, detection: Int?)] = []
        for i in tracks.indices {
            var track = tracks[i]
            let row = matches[i]
            if row < 0 {
                if track.state == .tentative { continue }
                track.state = .lost
                places.append((expected[i].box, 0, nil))
            } else {
                let gap = track.state == .lost ? time - track.seen : 0
                var motion = expected[i]
                rules.correct(&track, &motion, found, row, time)
                take(&track, motion, found, row, time)
                places.append((rules.common.boxes == .detection ? track.box : motion.box, gap, found.rows[row]))
                used[row] = true
            }
            after.append(track)
        }
        for i in after.indices
        where after[i].state == .tentative && time - after[i].born >= rules.common.confirmSeconds - Tracker.clock { confirm(&after[i]) }
        for row in 0..<found.count where !used[row] && rules.begins(found.scores[row]) {
            var track = begun(found, row, time)
            if isFirst || rules.common.confirmSeconds == 0 { confirm(&track) }
            places.append((track.box, 0, found.rows[row]))
            after.append(track)
        }
        tracks = after
        all.reserveCapacity(after.count)
        for (track, place) in zip(after, places) {
            all.append(seen(track, at: time, box: place.box, gap: place.gap, detection: place.detection))
        }
        return Tracks(time: time, all: all)
    }

    /// Note that a track was seen as a detection.
    private func take(_ track: inout Track, _ motion: Motion, _ found: Observed, _ row: Int, _ time: Double) {
        track.motion = motion
        track.box = found.boxes[row]
        track.score = found.scores[row]
        track.classId = found.classIds[row]
        track.seen = time
        if track.state == .lost { track.state = .tracked }
        track.trajectory.append(time, track.box)
    }

    private mutating func confirm(_ track: inout Track) {
        track.id = nextId
        track.state = .tracked
        nextId += 1
    }

    private func begun(_ found: Observed, _ row: Int, _ time: Double) -> Track {
        var trajectory = Trajectory(size: rules.common.trajectoryPoints)
        trajectory.append(time, found.boxes[row])
        return Track(
            motion: Motion(found.boxes[row]), box: found.boxes[row], score: found.scores[row], classId: found.classIds[row],
            born: time, seen: time, trajectory: trajectory, embedding: found.embeddings?[row])
    }

    private func seen(_ track: Track, at time: Double, box: Box, gap: Double, detection: Int?) -> TrackedObject {
        TrackedObject(
            id: track.id, box: box, score: track.score, classId: track.classId, state: track.state,
            age: time - track.born, unseen: time - track.seen, gap: gap, detection: detection)
    }
}
