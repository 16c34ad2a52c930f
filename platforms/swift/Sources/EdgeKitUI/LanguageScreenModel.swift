import EdgeKit
import Foundation

/// What the screen of a vision-language model shows, and what its buttons do: one text after the other. It needs no system of
/// Apple's; `LanguageScreen` draws it.
@MainActor
public final class LanguageScreenModel {
    /// All that is shown but the picture itself.
    public struct State: Sendable, Hashable {
        /// Nil until the model is open, as `kind` and `placement`.
        public var name: String?
        public var kind: VisionLanguage.Kind?
        public var placement: Placement?
        public var styles: [String] = []
        public var status = "The model is being opened."
        public var problem: Problem?
        /// The question or text that `answer` belongs to; empty for a caption.
        public var asked = ""
        public var answer = ""
        public var isBusy = true
        /// Whether there is a text to stop.
        public var isWriting = false
        public var times = Times()

        public var isRetrieval: Bool { kind == .retrieval }
        /// Whether the buttons do anything.
        public var isReady: Bool { kind != nil && !isBusy }
    }

    /// Milliseconds of the last text: of the picture (next to nothing where it was remembered), of the first piece after it, of all.
    public struct Times: Sendable, Hashable {
        public var picture: Double?
        public var first: Double?
        public var total: Double?
    }

    public private(set) var state = State() { didSet { changed(state) } }
    /// Is given each new state.
    public var changed: @MainActor (State) -> Void = { _ in }

    private let folder: URL
    private let engine: any NetworkEngine
    private let options: GenerationOptions?
    private var model: VisionLanguage?
    private var picture: Frame?
    /// What is going on, nil when it is done.
    private(set) var work: Task<Void, Never>?

    /// - Parameters:
    ///   - bundle: The folder that `edgekit convert` wrote.
    ///   - options: In place of the bundle's own. One beam at most: texts are shown as they are made.
    public init(bundle: URL, engine: any NetworkEngine, options: GenerationOptions? = nil) {
        (folder, self.engine, self.options) = (bundle, engine, options)
    }

    public func open() {
        alone {
            let model = try await VisionLanguage.open(self.folder, engine: self.engine)
            self.model = model
            (self.state.name, self.state.kind, self.state.styles) = (model.manifest.name, model.kind, model.styles)
            (self.state.placement, self.state.status) = (model.placement, "Ready. Choose a picture.")
        }
    }

    /// Another picture: it is described, or texts can be compared with it.
    public func look(at frame: Frame, style: String? = nil) {
        alone {
            (self.picture, self.state.times) = (frame, Times())
            (self.state.asked, self.state.answer) = ("", "")
            if self.state.isRetrieval { self.state.status = "Write a text to compare the picture with." } else { try await self.write(style: style) }
        }
    }

    public func describe(style: String? = nil) { alone { try await self.write(style: style) } }

    /// Answer a question, or compare a text where the bundle is for retrieval. Blanks alone are nothing.
    public func ask(_ given: String) {
        let text = given.trimmingCharacters(in: .whitespacesAndNewlines)
        if text.isEmpty { return }
        alone { if self.state.isRetrieval { try await self.compare(text) } else { try await self.write(question: text) } }
    }

    /// Stop the text that is being written.
    public func stop() { if state.isWriting { work?.cancel() } }

    /// Show what went wrong outside.
    public func complain(_ error: any Error) { state.problem = Problem(error) }

    private func write(question: String? = nil, style: String? = nil) async throws {
        let (model, picture) = try ready()
        state.isWriting = true
        defer { state.isWriting = false }
        (state.asked, state.answer, state.times) = (question ?? "", "", Times())
        state.status = question == nil ? "Describing the picture." : "Answering."
        let clock = ContinuousClock()
        let begun = clock.now
        try await model.embed(image: picture)  // is remembered, and timed by itself
        let seen = clock.now
        state.times.picture = milliseconds(seen - begun)
        try await model.write(picture, question: question, style: style, options: spoken(model)) { await self.add($0, since: seen) }
        state.times.total = milliseconds(clock.now - begun)
        state.answer = state.answer.trimmingCharacters(in: .whitespacesAndNewlines)
        if state.answer.isEmpty { state.answer = "The model says nothing." }
        state.status = question == nil ? "Described." : "Answered."
    }

    private func add(_ piece: String, since seen: ContinuousClock.Instant) {
        if state.times.first == nil { state.times.first = milliseconds(.now - seen) }
        // Models begin with a blank.
        state.answer = state.answer.isEmpty ? String(piece.drop(while: \.isWhitespace)) : state.answer + piece
    }

    private func compare(_ text: String) async throws {
        let (model, picture) = try ready()
        (state.asked, state.answer, state.times, state.status) = (text, "", Times(), "Comparing.")
        let clock = ContinuousClock()
        let begun = clock.now
        try await model.embed(image: picture)
        state.times.picture = milliseconds(clock.now - begun)
        let found = try await model.match(picture, text)
        state.times.total = milliseconds(clock.now - begun)
        state.answer = String(format: "%.0f %% that it fits (similarity %.2f)", 100 * found.probability, found.similarity)
        state.status = "Compared."
    }

    private func ready() throws -> (VisionLanguage, Frame) {
        guard let model else { throw EdgeKitError.closed("the model is not open") }
        guard let picture else { throw EdgeKitError.input("there is no picture yet; choose one") }
        return (model, picture)
    }

    /// The bundle's own options may be a beam search, of which nothing can be shown before its end.
    private func spoken(_ model: VisionLanguage) -> GenerationOptions {
        var chosen = options ?? model.defaults
        (chosen.beams, chosen.returned) = (1, 1)
        return chosen
    }

    /// One thing at a time; a second wish meanwhile is not heard.
    private func alone(_ what: @escaping @MainActor () async throws -> Void) {
        if work != nil { return }
        (state.isBusy, state.problem) = (true, nil)
        work = Task {
            do {
                try await what()
            } catch is CancellationError {
                state.status = "Stopped."
            } catch {
                state.problem = Problem(error)
                state.status = model == nil ? "There is no model." : "Ready."
            }
            state.isBusy = false
            work = nil
        }
    }
}
