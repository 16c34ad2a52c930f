/// The words of a piece of text, each of which becomes tokens by itself; the flag says that the piece begins the text.
typealias PreTokenizer = @Sendable (Scalars, Bool) -> [Scalars]

func preTokenizer(_ part: Part) throws -> PreTokenizer {
    switch try part.text("type") {
    case "Sequence":
        let all = try part.list("pretokenizers").map(preTokenizer)
        return { text, first in
            all.reduce([text]) { words, one in words.enumerated().flatMap { one($0.element, first && $0.offset == 0) } }
        }
    case "ByteLevel":
        let (prefix, split) = (try part.flag("add_prefix_space"), try part.flag("use_regex", or: true))
        return { text, _ in
            let whole = prefix && text.first != " " ? [" "] + text : text
            return (split ? gpt2(whole) : [whole]).map { $0.utf8.map { ByteLetters.letters[Int($0)] } }
        }
    case "Metaspace":
        let (mark, scheme) = try Metaspace.read(part)
        let split = try part.flag("split", or: true)
        return { text, first in
            var marked = text.map { $0 == " " ? mark : $0 }
            if scheme == "always" || (scheme == "first" && first), marked.first != mark { marked.insert(mark, at: 0) }
            if !split { return [marked] }
            var words: [Scalars] = []
            for letter in marked {
                if letter == mark || words.isEmpty { words.append([]) }
                words[words.count - 1].append(letter)
            }
            return words
        }
    case "WhitespaceSplit": return { text, _ in spaced(text) }
    case "BertPreTokenizer": return { text, _ in spaced(text).flatMap(atPunctuation) }
    case let other: throw part.unknown("is the pre_tokenizer '\(other)'")
    }
}

/// The mark that stands for a space, and where one is put in front: `always`, `first` or `never`.
enum Metaspace {
    static func read(_ part: Part) throws -> (mark: Unicode.Scalar, scheme: String) {
        let older = try part.flag("add_prefix_space", or: true) ? "always" : "never"
        let scheme = part.has("prepend_scheme") ? try part.text("prepend_scheme") : older
        if !["always", "first", "never"].contains(scheme) { throw part.unknown("has the prepend_scheme '\(scheme)'") }
        let marks = Scalars(try part.text("replacement").unicodeScalars)
        guard marks.count == 1 else { throw part.wrong("has a replacement that is not one letter") }
        return (marks[0], scheme)
    }
}

private func spaced(_ text: Scalars) -> [Scalars] { text.split { $0.isSpace }.map(Scalars.init) }

private func atPunctuation(_ word: Scalars) -> [Scalars] {
    var words: [Scalars] = []
    var open = false
    for letter in word {
        if letter.isPunctuation || !open { words.append([]) }
        words[words.count - 1].append(letter)
        open = !letter.isPunctuation
    }
    return words
}

private let endings: [Scalars] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].map { Scalars($0.unicodeScalars) }

/// GPT-2's words: endings of English words; letters, numbers or other signs with a space in front; and spaces.
private func gpt2(_ text: Scalars) -> [Scalars] {
    var (words, at) = ([Scalars](), 0)
    func run(_ start: Int, _ fits: (Unicode.Scalar) -> Bool) -> Int { start + text[min(start, text.count)...].prefix(while: fits).count }
    while at < text.count {
        var end = at
        if let ending = endings.first(where: { text.has($0, at: at) }) {
            end = at + ending.count
        } else {
            let start = text[at] == " " ? at + 1 : at
            for fits in [\Unicode.Scalar.isLetter, \.isNumber, \.isSign] where end == at {
                let found = run(start) { $0[keyPath: fits] }
                if found > start { end = found }
            }
            if end == at {
                end = run(at) { $0.isSpace }
                // The last space belongs to the word behind it.
                if end < text.count && end > at + 1 { end -= 1 }
            }
        }
        words.append(Scalars(text[at..<end]))
        at = end
    }
    return words
}

extension Unicode.Scalar {
    fileprivate var isSign: Bool { !isSpace && !isLetter && !isNumber }
}

/// The letter that stands for each byte in byte-level tokens: itself where it can be seen, else one from U+0100 on.
enum ByteLetters {
    static let letters: Scalars = {
        var next: UInt32 = 256
        return (0..<256).map { (byte: UInt32) in
            if (33...126).contains(byte) || (161...172).contains(byte) || byte >= 174 { return Unicode.Scalar(byte)! }
            next += 1
            return Unicode.Scalar(next - 1)!
        }
    }()

    /// The byte that each of these letters stands for.
    static let bytes = Dictionary(uniqueKeysWithValues: letters.enumerated().map { ($0.element, UInt8($0.offset)) })
}
