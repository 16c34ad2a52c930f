/// One place for the newest frame: what comes while the model is busy takes the place of what has not been looked at.
package actor Newest {
    private var dropped = 0
    private var frame: Frame?
    private var ended = false
    private var failure: (any Error)?
    private var waiting: CheckedContinuation<Void, Never>?

    package init() {}

    package func put(_ frame: Frame) {
        if self.frame != nil { dropped += 1 }
        self.frame = frame
        wake()
    }

    /// No more frames come; an error is thrown where they are taken.
    package func end(_ error: (any Error)? = nil) {
        ended = true
        failure = failure ?? error
        wake()
    }

    /// The newest frame; nil at the end, and when the task that waits is cancelled.
    package func take() async throws -> Frame? {
        while frame == nil && !ended && !Task.isCancelled {
            await withTaskCancellationHandler {
                await withCheckedContinuation { waiting = $0 }
            } onCancel: {
                Task { await self.end() }
            }
        }
        if Task.isCancelled { return nil }
        guard let taken = frame else {
            if let failure { throw failure }
            return nil
        }
        frame = nil
        return taken
    }

    /// Frames that nobody took in time, since this was last asked.
    package func newlyDropped() -> Int {
        defer { dropped = 0 }
        return dropped
    }

    private func wake() {
        waiting?.resume()
        waiting = nil
    }
}
