/// How tokens are chosen: greedy with one beam, beam search with more, at random with `sample`. Meaning is Python's.
public struct GenerationOptions: Sendable, Hashable {
    public enum EarlyStopping: Sendable, Hashable { case whenFull, whenNoneLooksBetter, never }

    /// The most tokens that are generated, the end token included.
    public var maxNewTokens = 20
    /// Fewest tokens before an end token.
    public var minNewTokens = 0
    /// How many sequences a beam search keeps.
    public var beams = 1
    /// Sequences that are returned: at most `beams`, any number while sampling.
    public var returned = 1
    /// Scores are divided by `length ** lengthPenalty`: above 0 favours long sequences.
    public var lengthPenalty = 1.0
    public var earlyStopping = EarlyStopping.whenNoneLooksBetter
    /// Above 1 makes tokens that are there already less likely, those of the prompt included.
    public var repetitionPenalty = 1.0
    /// N-grams of this length may not repeat; 0 is off.
    public var noRepeatNgramSize = 0
    /// Draw tokens at random. Seeds draw other tokens than Python's, from the same distribution.
    public var sample = false
    public var temperature = 1.0
    /// Sample among this many likeliest tokens; 0 is all.
    public var topK = 0
    /// Sample among the likeliest tokens that make up this share of the probability.
    public var topP = 1.0
    /// Sample among tokens at least this times as likely as the likeliest.
    public var minP = 0.0
    /// The same seed draws the same tokens here; nil draws anew.
    public var seed: UInt64?
    /// Texts that end a sequence, and are no part of it.
    public var stop: [String] = []

    public init() {}

    /// - Throws: `EdgeKitError.usage`: a value out of range, or options that cannot go together.
    package func check() throws {
        func range<T: Comparable>(_ name: String, _ value: T, _ fits: Bool, _ wanted: String) throws {
            if !fits { throw EdgeKitError.usage("option \(name)=\(value): expected \(wanted)") }
        }
        try range("maxNewTokens", maxNewTokens, (1...100_000).contains(maxNewTokens), "1 to 100000")
        try range("minNewTokens", minNewTokens, (0...100_000).contains(minNewTokens), "0 to 100000")
        try range("beams", beams, (1...1000).contains(beams), "1 to 1000")
        try range("returned", returned, (1...1000).contains(returned), "1 to 1000")
        try range("lengthPenalty", lengthPenalty, abs(lengthPenalty) <= 5, "-5 to 5")
        try range("repetitionPenalty", repetitionPenalty, repetitionPenalty > 0 && repetitionPenalty.isFinite, "a number above 0")
        try range("noRepeatNgramSize", noRepeatNgramSize, (0...100_000).contains(noRepeatNgramSize), "0 to 100000")
        try range("temperature", temperature, temperature > 0 && temperature.isFinite, "a number above 0")
        try range("topK", topK, (0...100_000).contains(topK), "0 to 100000")
        try range("topP", topP, topP > 0 && topP <= 1, "a share above 0 and up to 1")
        try range("minP", minP, minP >= 0 && minP <= 1, "a share of 0 to 1")
        if stop.contains("") { throw EdgeKitError.usage("option stop: an empty text ends everything; leave it out") }
        if minNewTokens > maxNewTokens {
            throw EdgeKitError.usage("option minNewTokens=\(minNewTokens) is above maxNewTokens=\(maxNewTokens): raise maxNewTokens")
        }
        if sample && beams > 1 {
            throw EdgeKitError.usage("options sample=true and beams=\(beams) cannot go together: take beams=1, or sample=false")
        }
        if !sample && returned > beams {
            throw EdgeKitError.usage("option returned=\(returned) is above beams=\(beams): take beams=\(returned) or more, or sample=true")
        }
        let idle = [("temperature", temperature != 1), ("topK", topK != 0), ("topP", topP != 1), ("minP", minP != 0)].first { $0.1 }
        if !sample, let idle { throw EdgeKitError.usage("option \(idle.0) means nothing without sampling: add sample=true, or leave it out") }
    }

    /// A bundle's own options, by Python's names.
    package static let read: Reader<GenerationOptions> = { node, path in
        let made = try Read.structure(GenerationOptions.init)(node, path)
        do {
            try made.check()
        } catch let error as EdgeKitError {
            throw Invalid(error.message, path)
        }
        return made
    }

    private init(_ fields: Fields) throws {
        maxNewTokens = try fields.read("max_new_tokens", Read.int, or: maxNewTokens)
        minNewTokens = try fields.read("min_new_tokens", Read.int, or: minNewTokens)
        beams = try fields.read("beams", Read.int, or: beams)
        returned = try fields.read("returned", Read.int, or: returned)
        lengthPenalty = try fields.read("length_penalty", Read.float, or: lengthPenalty)
        earlyStopping = try fields.read("early_stopping", stopping, or: earlyStopping)
        repetitionPenalty = try fields.read("repetition_penalty", Read.float, or: repetitionPenalty)
        noRepeatNgramSize = try fields.read("no_repeat_ngram_size", Read.int, or: noRepeatNgramSize)
        sample = try fields.read("sample", Read.bool, or: sample)
        temperature = try fields.read("temperature", Read.float, or: temperature)
        topK = try fields.read("top_k", Read.int, or: topK)
        topP = try fields.read("top_p", Read.float, or: topP)
        minP = try fields.read("min_p", Read.float, or: minP)
        seed = try fields.read("seed", Read.nullable(Read.int(from: 0)), or: nil).map { UInt64($0) }
        stop = try fields.read("stop", Read.list(Read.string), or: stop)
    }
}

private let stopping: Reader<GenerationOptions.EarlyStopping> = { node, path in
    switch node {
    case .bool(let flag): flag ? .whenFull : .whenNoneLooksBetter
    case .string("never"): .never
    default: throw Invalid("Expected true, false or 'never'", path)
    }
}
