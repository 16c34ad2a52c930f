import Foundation

/// A language model with its cache: rows of tokens that are grown together.
protocol LanguageGraph: AnyObject, Sendable {
    /// Read a prompt (1, tokens, width), dropping what was there; logits (1, vocabulary) of the next token.
    func start(_ embeddings: Tensor) async throws -> Tensor
    /// Append a token to every row; logits (rows, vocabulary).
    func step(_ tokens: [Int]) async throws -> Tensor
    /// Continue with these rows, in this order; they may be repeated and left out.
    func select(_ rows: [Int]) async
}

/// One prompt.
struct Prompt: Sendable {
    /// (1, tokens, width), what the graph reads.
    let embeddings: Tensor
    /// What the penalties read: the ids behind the embeddings, or the token that a decoder starts with.
    let ids: [Int]
    /// Tokens that end a sequence.
    let eos: [Int]
    /// What finished rows go on with.
    let pad: Int
}

/// Tokens without the prompt, an end token included, and the sum of their log-probabilities by `length ** lengthPenalty`.
struct GeneratedSequence: Sendable {
    var tokens: [Int]
    var score: Float
}

/// Whether a sequence ends here for a reason of the caller's.
typealias Stopped = @Sendable ([Int]) -> Bool

/// `options.returned` sequences, the best first while searching with beams.
///
/// - Throws: `EdgeKitError.engine`: the graph failed, or gave something unusable. `.usage`: no token is left to draw.
func generate(_ graph: any LanguageGraph, _ prompt: Prompt, _ options: GenerationOptions, stopped: Stopped? = nil) async throws -> [GeneratedSequence] {
    if options.beams > 1 { return try await beamSearch(graph, prompt, options, stopped) }
    var stepwise = Stepwise(graph, prompt, options, stopped)
    var sums = [Double](repeating: 0, count: options.returned)
    while let step = try await stepwise.next() {
        for (row, one) in step.enumerated() { sums[row] += one.map { Double($0.logProbability) } ?? 0 }
    }
    return zip(stepwise.made, sums).map { GeneratedSequence(tokens: $0, score: Float($1 / pow(Double($0.count), options.lengthPenalty))) }
}

/// Token after token, each chosen for good: what greedy decoding, sampling and streams share.
struct Stepwise {
    /// What was generated so far, of each row.
    private(set) var made: [[Int]]
    private let graph: any LanguageGraph
    private let prompt: Prompt
    private let options: GenerationOptions
    private let stopped: Stopped?
    private var numbers: [Uniform]
    private var alive: [Bool]
    private var last: [Int] = []

    init(_ graph: any LanguageGraph, _ prompt: Prompt, _ options: GenerationOptions, _ stopped: Stopped? = nil) {
        (self.graph, self.prompt, self.options, self.stopped) = (graph, prompt, options, stopped)
        let seed = options.seed ?? UInt64.random(in: 0 ... .max)
        numbers = (0..<options.returned).map { Uniform(seed, row: $0) }
        made = Array(repeating: [], count: options.returned)
        alive = Array(repeating: true, count: options.returned)
    }

    /// One token of each row, nil where it has ended; nil after the last.
    mutating func next() async throws -> [(token: Int, logProbability: Float)?]? {
        guard let logits = try await logits() else { return nil }
        var step: [(token: Int, logProbability: Float)?] = []
        for (row, own) in logits.enumerated() {
            guard alive[row] else {
                step.append(nil)
                continue
            }
            let scores = penalised(own, prompt.ids + made[row], made: made[row].count, options, prompt.eos)
            let token = options.sample ? drawn(try chances(scores, options), numbers[row].next()) : highest(scores, 1)[0]
            made[row].append(token)
            step.append((token, logProbabilities(own)[token]))
            if prompt.eos.contains(token) || stopped?(made[row]) == true { alive[row] = false }
        }
        last = step.map { $0?.token ?? prompt.pad }
        return step
    }

    private mutating func logits() async throws -> [[Float]]? {
        let length = made.map(\.count).max()!
        if length == 0 {
            return Array(repeating: try logitRows(try await graph.start(prompt.embeddings), 1)[0], count: options.returned)
        }
        if length == options.maxNewTokens || !alive.contains(true) { return nil }
        if length == 1 && options.returned > 1 { await graph.select(Array(repeating: 0, count: options.returned)) }
        return try logitRows(try await graph.step(last), options.returned)
    }
}

// Beam search as transformers 5 does it: the best sequences of a prompt, finished ones kept apart.

/// What is added to the score of what is out of the race.
private let out: Float = -1e9

/// A sequence that goes on, or might; `origin` is the beam that it continues.
private struct Beam {
    let tokens: [Int]
    var score: Float
    var origin = 0
    var ended = false
}

/// A finished sequence; not `real` where there is none yet.
private struct Finished {
    let tokens: [Int]
    let score: Float
    let real: Bool
}

private func beamSearch(_ graph: any LanguageGraph, _ prompt: Prompt, _ options: GenerationOptions, _ stopped: Stopped?) async throws -> [GeneratedSequence] {
    var logits = Array(repeating: try logitRows(try await graph.start(prompt.embeddings), 1)[0], count: options.beams)
    // The beams are equal at first: only one may be continued, or all would stay equal.
    var running = logits.indices.map { Beam(tokens: [], score: $0 == 0 ? 0 : out) }
    var finished = logits.map { _ in Finished(tokens: [], score: out, real: false) }
    var improvable = true
    for length in 1...options.maxNewTokens {
        let found = try continued(running, logits, length, prompt, options, stopped)
        finished = withEnded(finished, found, improvable, length, options)
        let open = found.map { one in
            var one = one
            if one.ended { one.score += out }
            return one
        }
        running = open.taking(highest(open.map(\.score), options.beams))
        improvable = improvable && mayImprove(running[0].score, finished, length, options)
        let full = options.earlyStopping == .whenFull && finished.allSatisfy(\.real)
        if full || !improvable || found.allSatisfy(\.ended) { break }
        let origins = running.map(\.origin)
        // The graph has one row so far.
        if length == 1 { await graph.select(origins.map { _ in 0 }) } else if origins != Array(origins.indices) { await graph.select(origins) }
        logits = try logitRows(try await graph.step(running.map { $0.tokens.last! }), options.beams)
    }
    return finished.prefix(options.returned).map { GeneratedSequence(tokens: $0.tokens, score: $0.score) }
}

/// The best continuations by one token. More than the beams, so that beams are left when the best of them end.
private func continued(
    _ running: [Beam], _ logits: [[Float]], _ length: Int, _ prompt: Prompt, _ options: GenerationOptions, _ stopped: Stopped?
) throws -> [Beam] {
    let vocabulary = logits[0].count
    let kept = max(2, 1 + prompt.eos.count) * running.count
    if kept > running.count * vocabulary {
        throw EdgeKitError.usage(
            "a beam search with \(prompt.eos.count) end token(s) needs a vocabulary of \(kept / running.count) or more, this one has \(vocabulary): take beams=1")
    }
    let sums = zip(running, logits).flatMap { beam, own in
        penalised(logProbabilities(own), prompt.ids + beam.tokens, made: length - 1, options, prompt.eos).map { $0 + beam.score }
    }
    return highest(sums, kept).map { place in
        let (origin, token) = (place / vocabulary, place % vocabulary)
        let tokens = running[origin].tokens + [token]
        let ended = prompt.eos.contains(token) || length == options.maxNewTokens || stopped?(tokens) == true
        return Beam(tokens: tokens, score: sums[place], origin: origin, ended: ended)
    }
}

/// Let what has just ended into the finished ones, where it is better. Only the first may: the others are there to go on.
private func withEnded(_ finished: [Finished], _ found: [Beam], _ improvable: Bool, _ length: Int, _ options: GenerationOptions) -> [Finished] {
    let full = options.earlyStopping == .whenFull && finished.allSatisfy(\.real)
    let divisor = Float(pow(Double(length), options.lengthPenalty))
    let entering = found.enumerated().map { place, one in
        let enters = one.ended && place < options.beams
        var score = one.score / divisor
        for excluded in [full, !improvable, !enters] where excluded { score += out }
        return Finished(tokens: one.tokens, score: score, real: enters)
    }
    let merged = finished + entering
    return merged.taking(highest(merged.map(\.score), options.beams))
}

/// Whether the best running beam might end better than the worst finished one; with `never` at any length.
private func mayImprove(_ score: Float, _ finished: [Finished], _ length: Int, _ options: GenerationOptions) -> Bool {
    let at = options.earlyStopping == .never && options.lengthPenalty > 0 ? options.maxNewTokens : length
    let least = finished.map(\.score).min()!
    let worst = finished.map { $0.real ? least : out }.min()!
    return score / Float(pow(Double(at), options.lengthPenalty)) > worst
}
