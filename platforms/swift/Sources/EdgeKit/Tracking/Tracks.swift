/// Life-cycle state of a track.
public enum TrackState: Sendable, Hashable {
    /// Seen but not believed yet; its id is -1.
    case tentative
    /// Believed and seen.
    case tracked
    /// Believed and not seen.
    case lost
}

/// One track at one moment.
public struct TrackedObject: Sendable, Hashable {
    /// Counted from 1 in the order in which tracks were confirmed; -1 while tentative.
    public let id: Int
    /// Where the filter takes the track to be after its detection (the detection's own box with `boxes: .detection`), or
    /// without one, where it is expected.
    public let box: Box
    public let score: Float
    public let classId: Int
    public let state: TrackState
    /// Seconds since it was first seen, and last seen.
    public let age: Double
    public let unseen: Double
    /// Where found again in this frame: seconds since it was last seen before; else 0.
    public let gap: Double
    /// Row of the detection in the arrays given to this update; nil without one.
    public let detection: Int?
}

/// All tracks of a stream at one moment, oldest first.
public struct Tracks: Sendable, Hashable {
    public let time: Double
    public let all: [TrackedObject]

    /// The confirmed tracks that are in sight: what counts and what is drawn.
    public var visible: [TrackedObject] { all.filter { $0.state == .tracked } }
}

/// A track as it is kept between frames. `motion` is as of `seen`; it is never advanced in place.
package struct Track: Sendable {
    package var motion: Motion
    package var box: Box
    package var score: Float
    package var classId: Int
    package var id = -1
    package var state = TrackState.tentative
    package let born: Double
    package var seen: Double
    package var trajectory: Trajectory
    /// Unit vector of appearance.
    package var embedding: [Float]?
}

/// The newest observations of one track, in memory that does not grow: a ring of times and boxes.
package struct Trajectory: Sendable {
    private var times: [Double] = []
    private var boxes: [Box] = []
    private let size: Int
    package private(set) var count = 0

    package init(size: Int) { self.size = size }

    package mutating func append(_ time: Double, _ box: Box) {
        if count < size {
            times.append(time)
            boxes.append(box)
        } else {
            (times[count % size], boxes[count % size]) = (time, box)
        }
        count += 1
    }

    /// Oldest first.
    package var observations: [(time: Double, box: Box)] {
        let length = min(count, size)
        return (0..<length).map { i in
            let at = (count - length + i) % size
            return (times[at], boxes[at])
        }
    }

    /// Middle of the newest observation that is not newer than `time`, else of the oldest within reach.
    package func middle(atOrBefore time: Double, reach: Int = 16) -> SIMD2<Float> {
        let most = min(count, size, reach) - 1
        var steps = 0
        while steps < most && times[(count - 1 - steps) % size] > time { steps += 1 }
        return boxes[(count - 1 - steps) % size].middle
    }
}

extension Box {
    package var middle: SIMD2<Float> { SIMD2((x1 + x2) * 0.5, (y1 + y2) * 0.5) }
}
