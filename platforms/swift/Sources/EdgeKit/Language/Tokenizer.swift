/// Texts to token ids and back, by a `tokenizer.json` of Hugging Face's format.
public struct Tokenizer: Sendable {
    private let normalize: Normalizer
    private let words: PreTokenizer
    private let model: any TokenModel
    /// Ids before and behind a text.
    private let around: Around
    private let joined: TokenDecoder
    private let added: AddedTokens

    /// - Throws: `EdgeKitError.bundle`: not such a file, or with a part that this package does not know; it names the part.
    public init(_ bytes: [UInt8]) throws {
        let document: JSON
        do {
            document = try JSON(parsing: bytes)
        } catch {
            throw EdgeKitError.bundle(.invalid, "tokenizer.json: not a tokenizer (\(error)); convert the model again")
        }
        let file = try Part(document, "document")
        for name in ["padding", "truncation"] where file.has(name) {
            throw EdgeKitError.bundle(.invalid, "tokenizer.json: has \(name), which belongs to a call; convert again")
        }
        func part(_ name: String) throws -> Part? { try file.json(name).map { try Part($0, name) } }
        let same: Normalizer = { $0 }
        let one: PreTokenizer = { text, _ in [text] }
        let spaced: TokenDecoder = { String(decoding: Array($0.joined(separator: [0x20])), as: UTF8.self) }
        normalize = try part("normalizer").map { try normalizer($0) } ?? same
        words = try part("pre_tokenizer").map { try preTokenizer($0) } ?? one
        model = try tokenModel(Part(file.json("model"), "model"))
        around = try part("post_processor").map { try Around($0) } ?? Around()
        joined = try part("decoder").map { try tokenDecoder($0) } ?? spaced
        added = try AddedTokens(file.has("added_tokens") ? file.list("added_tokens") : [], normalize)
    }

    /// The ids of a text, with those that the tokenizer puts before and behind.
    public func encode(_ text: String) throws -> [Int] {
        let ids = try added.split(Scalars(text.unicodeScalars), normalize).flatMap { piece -> [Int] in
            if let id = piece.id { return [id] }
            return try words(piece.text, piece.first).flatMap { $0.isEmpty ? [] : try model.tokens($0) }
        }
        return around.before + ids + around.behind
    }

    /// The text of ids, without special tokens and unknown ids.
    public func decode(_ ids: some Sequence<Int>) -> String {
        joined(ids.compactMap { id in
            guard let token = added.contents[id] ?? model.pieces[id], !added.special.contains(token) else { return nil }
            return token
        })
    }

    /// Decodes one text id by id: what is new after each, nil while that is not sure, as with half a character. What is never
    /// whole never comes.
    public struct Pieces: Sendable {
        // As the package tokenizers does it: only the last tokens are decoded, of which the first are known.
        private let tokenizer: Tokenizer
        private var ids: [Int] = []
        private var prefix: [UInt8] = []
        private var known = 0
        private static let half = Array("\u{FFFD}".utf8)

        init(_ tokenizer: Tokenizer) { self.tokenizer = tokenizer }

        /// - Throws: `EdgeKitError.bundle`: a later token changes the text before it.
        public mutating func add(_ id: Int) throws -> String? {
            func decoded() -> [UInt8] { Array(tokenizer.decode(ids).utf8) }
            if prefix.isEmpty && !ids.isEmpty {
                let text = decoded()
                if !text.reversed().starts(with: Pieces.half.reversed()) { (prefix, known) = (text, ids.count) }
            }
            ids.append(id)
            let text = decoded()
            if text.count <= prefix.count || text.reversed().starts(with: Pieces.half.reversed()) { return nil }
            guard text.starts(with: prefix) else {
                throw EdgeKitError.bundle(.invalid, "tokenizer.json: a later token changes the text before it; texts of it cannot be streamed")
            }
            let piece = String(decoding: text.dropFirst(prefix.count), as: UTF8.self)
            let rest = ids.count - known
            ids.removeFirst(known)
            (prefix, known) = (decoded(), rest)
            return piece
        }
    }

    public func pieces() -> Pieces { Pieces(self) }
}

/// Ids before and behind a text.
private struct Around: Sendable {
    var before: [Int] = []
    var behind: [Int] = []

    init() {}

    init(_ part: Part) throws {
        switch try part.text("type") {
        case "ByteLevel": break
        case "RobertaProcessing", "BertProcessing":
            func id(_ name: String) throws -> Int { try part.count(part.array(name).last) }
            (before, behind) = ([try id("cls")], [try id("sep")])
        case "Sequence":
            for one in try part.list("processors").map(Around.init) { (before, behind) = (one.before + before, behind + one.behind) }
        case "TemplateProcessing":
            let special = try part.object("special_tokens")
            var isBehind = false
            for item in try part.list("single") {
                if item.has("Sequence") {
                    isBehind = true
                    continue
                }
                let token = try special.object(item.object("SpecialToken").text("id"))
                let ids = try token.array("ids").map { try token.count($0) }
                if isBehind { behind += ids } else { before += ids }
            }
        case let other: throw part.unknown("is the post_processor '\(other)'")
        }
    }
}

/// Tokens beside the model's own, which are looked for in the text first: `<image>`, `</s>`.
private struct AddedTokens: Sendable {
    struct Token: Sendable {
        let id: Int
        var content: Scalars
        /// Only where no letter or number is beside it.
        let single: Bool
        /// Takes the spaces on its left or right.
        let left: Bool
        let right: Bool
    }

    /// A token, or a text in which there is none; `first` where it begins the whole.
    struct Split {
        var id: Int?
        let text: Scalars
        let first: Bool
    }

    private(set) var contents: [Int: [UInt8]] = [:]
    private(set) var special: Set<[UInt8]> = []
    /// Those that are looked for in the text as it is, and those in the normalised text; the longest first.
    private var plain: [Token] = []
    private var normal: [Token] = []

    init(_ parts: [Part], _ normalize: Normalizer) throws {
        for part in parts {
            let content = Scalars(try part.text("content").unicodeScalars)
            var token = Token(
                id: try part.number("id"), content: content, single: try part.flag("single_word"), left: try part.flag("lstrip"),
                right: try part.flag("rstrip"))
            contents[token.id] = content.utf8
            if try part.flag("special") { special.insert(content.utf8) }
            if try part.flag("normalized") {
                token.content = normalize(content)
                normal.append(token)
            } else {
                plain.append(token)
            }
        }
        func sorted(_ tokens: [Token]) -> [Token] { tokens.filter { !$0.content.isEmpty }.sorted { $0.content.count > $1.content.count } }
        (plain, normal) = (sorted(plain), sorted(normal))
    }

    /// A text in tokens and normalised texts between them.
    func split(_ text: Scalars, _ normalize: Normalizer) -> [Split] {
        found(text, plain, true).flatMap { $0.id == nil ? found(normalize($0.text), normal, $0.first) : [$0] }
    }

    private func found(_ text: Scalars, _ tokens: [Token], _ first: Bool) -> [Split] {
        var (splits, begun, at) = ([Split](), 0, 0)
        while at < text.count {
            guard let token = tokens.first(where: { text.has($0.content, at: at) }) else {
                at += 1
                continue
            }
            var (start, stop) = (at, at + token.content.count)
            at = stop
            if token.single && (start > 0 && text[start - 1].isWord || stop < text.count && text[stop].isWord) { continue }
            if token.left { while start > begun && text[start - 1].isSpace { start -= 1 } }
            if token.right { while stop < text.count && text[stop].isSpace { stop += 1 } }
            if begun < start { splits.append(Split(text: Scalars(text[begun..<start]), first: first && begun == 0)) }
            splits.append(Split(id: token.id, text: Scalars(text[start..<stop]), first: false))
            begun = stop
            at = max(at, stop)
        }
        if begun < text.count { splits.append(Split(text: Scalars(text[begun...]), first: first && begun == 0)) }
        return splits
    }
}
