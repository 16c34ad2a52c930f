import Foundation

/// Rows of logits that a language graph returned.
///
/// - Throws: `EdgeKitError.engine`: not one row for each sequence, or a row that is no distribution.
func logitRows(_ logits: Tensor, _ rows: Int) throws -> [[Float]] {
    guard logits.shape.count == 2, logits.shape[0] == rows, logits.shape[1] > 0 else {
        throw EdgeKitError.engine("the language graph gave logits of shape \(logits.shown), not (\(rows), vocabulary): check its outputs")
    }
    let vocabulary = logits.shape[1]
    return try (0..<rows).map { row in
        let found = Array(logits.data[row * vocabulary..<(row + 1) * vocabulary])
        let peak = found.contains { $0.isNaN } ? .nan : found.max()!
        if !peak.isFinite {
            throw EdgeKitError.engine(
                "the language graph gave \(peak) as its highest logit in row \(row): its numbers overflowed; convert it with a wider precision")
        }
        return found
    }
}

/// Logarithm of the softmax.
func logProbabilities(_ logits: [Float]) -> [Float] {
    let peak = logits.max()!
    let total = log(Float(logits.reduce(0.0) { $0 + Double(exp($1 - peak)) }))
    return logits.map { $0 - peak - total }
}

/// Softmax; -infinity is probability 0.
func probabilities(_ scores: [Float]) -> [Float] {
    let peak = scores.max()!
    let weights = scores.map { exp($0 - peak) }
    let sum = Float(weights.reduce(0.0) { $0 + Double($1) })
    return weights.map { $0 / sum }
}

/// Places of the highest numbers, the highest first; of equal ones the first.
func highest(_ values: [Float], _ count: Int) -> [Int] {
    var found: [Int] = []
    found.reserveCapacity(count + 1)
    for (place, value) in values.enumerated() {
        if found.count == count && !(value > values[found[count - 1]]) { continue }
        var at = found.count
        while at > 0 && value > values[found[at - 1]] { at -= 1 }
        found.insert(place, at: at)
        if found.count > count { found.removeLast() }
    }
    return found
}

/// Penalties and bans before a token is chosen; order and meaning are those of transformers. `history` is the prompt and what
/// was generated; ids outside of the vocabulary count for nothing.
func penalised(_ scores: [Float], _ history: [Int], made: Int, _ options: GenerationOptions, _ eos: [Int]) -> [Float] {
    var changed = scores
    if options.repetitionPenalty != 1 {
        let penalty = Float(options.repetitionPenalty)
        for token in Set(history) where token < scores.count {
            changed[token] = scores[token] < 0 ? scores[token] * penalty : scores[token] / penalty
        }
    }
    let size = options.noRepeatNgramSize
    if size > 0 && history.count >= size {
        let begun = history[(history.count + 1 - size)...]
        for place in 0...(history.count - size) where history[place..<place + size - 1].elementsEqual(begun) {
            let last = history[place + size - 1]
            if last < changed.count { changed[last] = -.infinity }
        }
    }
    if made < options.minNewTokens { for token in eos where token < changed.count { changed[token] = -.infinity } }
    return changed
}

/// Probabilities of what sampling draws from: temperature, then top-k, top-p and min-p, each on what the last one left.
///
/// - Throws: `EdgeKitError.usage`: the penalties left no token at all.
func chances(_ scores: [Float], _ options: GenerationOptions) throws -> [Float] {
    if !scores.contains(where: { $0 > -.infinity }) {
        throw EdgeKitError.usage(
            "no token is left to draw: noRepeatNgramSize=\(options.noRepeatNgramSize) and minNewTokens=\(options.minNewTokens) ban all of them; loosen them")
    }
    var kept = options.temperature == 1 ? scores : scores.map { $0 / Float(options.temperature) }
    if options.topK > 0 {
        let lowest = kept[highest(kept, min(options.topK, kept.count)).last!]
        kept = kept.map { $0 < lowest ? -.infinity : $0 }
    }
    if options.topP < 1 {
        let order = kept.indices.sorted { kept[$0] != kept[$1] ? kept[$0] < kept[$1] : $0 < $1 }
        let rising = probabilities(order.map { kept[$0] })
        var sum = 0.0
        for (place, token) in order.enumerated().dropLast() {
            sum += Double(rising[place])
            if Float(sum) <= Float(1 - options.topP) { kept[token] = -.infinity }
        }
    }
    if options.minP > 0 {
        let likely = probabilities(kept)
        let least = Float(options.minP) * likely.max()!
        kept = zip(kept, likely).map { $1 < least ? -.infinity : $0 }
    }
    return probabilities(kept)
}

/// The token at a place (0 to 1) of the cumulative distribution; never one without a chance.
func drawn(_ likely: [Float], _ place: Double) -> Int {
    let total = likely.reduce(0.0) { $0 + Double($1) }
    var (rising, last) = (0.0, 0)
    for (token, chance) in likely.enumerated() where chance > 0 {
        rising += Double(chance)
        last = token
        if rising > place * total { return token }
    }
    return last
}

/// Numbers from 0 to 1 from a seed and the number of a row (SplitMix64: Steele, Lea, Flood, 2014).
struct Uniform {
    private var state: UInt64

    init(_ seed: UInt64, row: Int) { state = seed &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(row) &* 0xD1B5_4A32_D192_ED03 }

    mutating func next() -> Double {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = (state ^ state >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return Double((mixed ^ mixed >> 31) >> 11) / 0x1p53
    }
}
