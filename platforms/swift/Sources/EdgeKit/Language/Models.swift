/// How a word becomes tokens: byte pairs (OPT), word pieces by their scores (T5), the longest pieces (BERT).
protocol TokenModel: Sendable {
    /// Tokens in UTF-8 by id.
    var pieces: [Int: [UInt8]] { get }

    func tokens(_ word: Scalars) throws -> [Int]
}

/// The model of a tokenizer file; files that are older than its `type` have byte pairs.
func tokenModel(_ part: Part) throws -> any TokenModel {
    switch part.has("type") ? try part.text("type") : "BPE" {
    case "BPE": return try BytePairs(part)
    case "Unigram": return try Unigram(part)
    case "WordPiece": return try WordPieces(part)
    case let other: throw part.unknown("is the model '\(other)'")
    }
}

private func vocabulary(_ part: Part) throws -> [[UInt8]: Int] {
    Dictionary(try part.entries("vocab").map { (Array($0.key.utf8), try part.count($0.value)) }, uniquingKeysWith: { $1 })
}

private func inverted(_ ids: [[UInt8]: Int]) -> [Int: [UInt8]] {
    Dictionary(ids.map { ($0.value, $0.key) }, uniquingKeysWith: { $1 })
}

private struct BytePairs: TokenModel {
    private struct Pair: Hashable { let left, right: Int }

    let pieces: [Int: [UInt8]]
    private let ids: [[UInt8]: Int]
    private let merges: [Pair: (rank: Int, id: Int)]
    private let unknown: Int?
    private let fuse: Bool
    private let whole: Bool

    init(_ part: Part) throws {
        for name in ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"] {
            switch part.json(name) {
            case nil, .bool(false)?, .string("")?: continue
            default: throw part.unknown("has '\(name)'")
            }
        }
        let ids = try vocabulary(part)
        func known(_ piece: String) throws -> Int {
            guard let id = ids[Array(piece.utf8)] else { throw part.wrong("merges to '\(piece)', which is no token of it") }
            return id
        }
        var merges: [Pair: (rank: Int, id: Int)] = [:]
        for (rank, merge) in try part.array("merges").enumerated() {
            let pair: [String]
            switch merge {
            case .string(let text): pair = text.unicodeScalars.split(separator: " ", omittingEmptySubsequences: false).map { String($0) }
            case .array(let items): pair = items.compactMap { if case .string(let text) = $0 { text } else { nil } }
            default: pair = []
            }
            if pair.count != 2 { throw part.wrong("has a merge that is no pair") }
            merges[Pair(left: try known(pair[0]), right: try known(pair[1]))] = (rank, try known(pair[0] + pair[1]))
        }
        unknown = part.has("unk_token") ? try known(part.text("unk_token")) : nil
        (fuse, whole) = (try part.flag("fuse_unk"), try part.flag("ignore_merges"))
        (self.ids, self.merges, pieces) = (ids, merges, inverted(ids))
    }

    func tokens(_ word: Scalars) -> [Int] {
        if whole, let own = ids[word.utf8] { return [own] }
        var (found, missing) = ([Int](), false)
        for letter in word {
            let id = ids[[letter].utf8]
            if let id { found.append(id) } else if let unknown, !(missing && fuse) { found.append(unknown) }
            missing = id == nil
        }
        while true {
            var best: (rank: Int, id: Int, place: Int)?
            for i in found.indices.dropLast() {
                if let merge = merges[Pair(left: found[i], right: found[i + 1])], merge.rank < best?.rank ?? .max { best = (merge.rank, merge.id, i) }
            }
            guard let best else { return found }
            found.replaceSubrange(best.place...best.place + 1, with: [best.id])
        }
    }
}

private struct Unigram: TokenModel {
    let pieces: [Int: [UInt8]]
    private let ids: [[UInt8]: Int]
    private let scores: [Double]
    private let unknown: Int?
    private let least: Double
    private let longest: Int

    /// How much less likely than the least likely piece an unknown letter is.
    private static let penalty = 10.0

    init(_ part: Part) throws {
        if try part.flag("byte_fallback") { throw part.unknown("has 'byte_fallback'") }
        var (ids, scores, longest) = ([[UInt8]: Int](), [Double](), 1)
        for (id, entry) in try part.array("vocab").enumerated() {
            guard case .array(let items) = entry, items.count == 2, case .string(let piece) = items[0], case .number(let score) = items[1] else {
                throw part.wrong("has a piece that is no text with its score")
            }
            ids[Array(piece.utf8)] = id
            scores.append(score.value)
            longest = max(longest, piece.unicodeScalars.count)
        }
        (self.ids, self.scores, self.longest, pieces) = (ids, scores, longest, inverted(ids))
        unknown = part.has("unk_id") ? try part.number("unk_id") : nil
        least = (scores.min() ?? 0) - Unigram.penalty
    }

    func tokens(_ word: Scalars) throws -> [Int] {
        /// For each place the best way there: its score, where its last piece begins, and that piece.
        var ways = [(score: Double, start: Int, id: Int?)?](repeating: nil, count: word.count + 1)
        ways[0] = (0, -1, nil)
        func offer(_ end: Int, _ start: Int, _ id: Int?, _ score: Double) {
            if score > ways[end]?.score ?? -.infinity { ways[end] = (score, start, id) }
        }
        for start in word.indices {
            let before = ways[start]!.score
            var (piece, single) = ([UInt8](), false)
            for end in start + 1...max(start + 1, min(word.count, start + longest)) {
                piece += [word[end - 1]].utf8
                guard let id = ids[piece] else { continue }
                offer(end, start, id, scores[id] + before)
                if end == start + 1 { single = true }
            }
            if !single { offer(start + 1, start, unknown, least + before) }
        }
        var (found, missing, end) = ([Int](), 0, word.count)
        while end > 0 {
            let (_, start, id) = ways[end]!
            guard let id else {
                throw EdgeKitError.bundle(.invalid, "tokenizer.json: has no piece for '\(word[start])' and no unk_id; convert the model again")
            }
            if id != unknown {
                found.append(id)
            } else {
                if missing == 0 { missing = end }
                // Unknown letters side by side are one token.
                if start == 0 || ways[start]!.id != unknown {
                    found.append(ids[word[start..<missing].utf8] ?? id)
                    missing = 0
                }
            }
            end = start
        }
        return found.reversed()
    }
}

private struct WordPieces: TokenModel {
    let pieces: [Int: [UInt8]]
    private let ids: [[UInt8]: Int]
    private let prefix: [UInt8]
    private let unknown: Int
    private let most: Int

    init(_ part: Part) throws {
        ids = try vocabulary(part)
        pieces = inverted(ids)
        prefix = Array(try part.text("continuing_subword_prefix").utf8)
        let name = try part.text("unk_token")
        guard let unknown = ids[Array(name.utf8)] else { throw part.wrong("has no token '\(name)'") }
        self.unknown = unknown
        most = try part.number("max_input_chars_per_word")
    }

    func tokens(_ word: Scalars) -> [Int] {
        if word.count > most { return [unknown] }
        var (found, start) = ([Int](), 0)
        while start < word.count {
            let ends = stride(from: word.count, to: start, by: -1)
            let piece = ends.lazy.compactMap { end in ids[(start > 0 ? prefix : []) + word[start..<end].utf8].map { (id: $0, end: end) } }.first
            guard let piece else { return [unknown] }
            found.append(piece.id)
            start = piece.end
        }
        return found
    }
}
