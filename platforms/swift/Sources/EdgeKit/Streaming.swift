/// What runs on single frames, run on a stream of them: always on the newest.
package protocol Streaming: Actor {
    func run(_ frame: Frame, thresholds: Thresholds?) async throws -> EdgeResult

    /// So many frames were not looked at.
    func count(dropped frames: Int)
}

extension Streaming {
    /// Results of frames as they come; see `EdgeModel.results`.
    package nonisolated func streamed<Frames: AsyncSequence & Sendable>(
        _ frames: Frames, _ thresholds: Thresholds?, _ tracker: Tracker?
    ) -> AsyncThrowingStream<EdgeResult, any Error> where Frames.Element == Frame {
        let newest = Newest()
        let pump = Task {
            do {
                for try await frame in frames { await newest.put(frame) }
                await newest.end()
            } catch {
                await newest.end(error)
            }
        }
        let feed = Feed(pump: pump, newest: newest, tracker: tracker)
        return AsyncThrowingStream { try await self.next(feed, thresholds) }
    }

    fileprivate func next(_ feed: Feed, _ thresholds: Thresholds?) async throws -> EdgeResult? {
        do {
            guard let frame = try await feed.newest.take() else { return nil }
            var wanted = thresholds ?? Thresholds()
            wanted.score = wanted.score ?? feed.tracker.leastScore
            let found = try await run(frame, thresholds: wanted)
            count(dropped: await feed.newest.newlyDropped())
            return try feed.tracker.followed(found, frame)
        } catch is CancellationError {
            return nil
        }
    }
}

/// One stream: the task that feeds it ends with it.
private final class Feed: Sendable {
    let pump: Task<Void, Never>
    let newest: Newest
    let tracker: Following

    init(pump: Task<Void, Never>, newest: Newest, tracker: Tracker?) {
        (self.pump, self.newest, self.tracker) = (pump, newest, Following(tracker))
    }

    deinit { pump.cancel() }
}

/// The tracker of one stream.
private final class Following: Sendable {
    private let tracker: Mutex<Tracker?>
    let leastScore: Double?

    init(_ tracker: Tracker?) {
        self.tracker = Mutex(tracker)
        leastScore = tracker?.leastScore
    }

    /// The tracks in sight as a result: the detections of theirs, with track ids.
    func followed(_ found: EdgeResult, _ frame: Frame) throws -> EdgeResult {
        try tracker.withLock { tracker in
            guard tracker != nil else { return found }
            guard let time = frame.time else {
                throw EdgeKitError.usage("tracking needs the time of each frame; make it with Frame(..., time: seconds)")
            }
            let seen = try tracker!.update(found, time: time).visible
            let picked = found.picked(seen.map { $0.detection! }, trackIds: seen.map(\.id))
            guard case .detections(var detections) = picked else { return picked }
            detections.objects.boxes = seen.map { $0.box.clipped(to: found.info.size) }
            return .detections(detections)
        }
    }
}
