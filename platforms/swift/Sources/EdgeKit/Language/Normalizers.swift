import Foundation

/// What a tokenizer does to a text before it looks for tokens.
typealias Normalizer = @Sendable (Scalars) -> Scalars

func normalizer(_ part: Part) throws -> Normalizer {
    switch try part.text("type") {
    case "Sequence":
        let all = try part.list("normalizers").map(normalizer)
        return { all.reduce($0) { $1($0) } }
    case "Precompiled": return try CharsMap(base64: part.text("precompiled_charsmap")).normalize
    case "Strip":
        let (left, right) = (try part.flag("strip_left"), try part.flag("strip_right"))
        return { text in
            let begun = left ? Scalars(text.drop { $0.isSpace }) : text
            return right ? Scalars(begun.reversed().drop { $0.isSpace }.reversed()) : begun
        }
    case "Replace": return try replacer(part)
    case "Lowercase": return { $0.flatMap { $0.properties.lowercaseMapping.unicodeScalars } }
    case "NFC": return { Scalars(String($0).precomposedStringWithCanonicalMapping.unicodeScalars) }
    case "NFD": return { Scalars(String($0).decomposedStringWithCanonicalMapping.unicodeScalars) }
    case "NFKC": return { Scalars(String($0).precomposedStringWithCompatibilityMapping.unicodeScalars) }
    case "NFKD": return { Scalars(String($0).decomposedStringWithCompatibilityMapping.unicodeScalars) }
    case "BertNormalizer": return try bert(part)
    case let other: throw part.unknown("is the normalizer '\(other)'")
    }
}

/// A text, or repeated spaces: no published file of OPT's, T5's or BERT's has another pattern.
private func replacer(_ part: Part) throws -> Normalizer {
    let (pattern, content) = (try part.object("pattern"), Scalars(try part.text("content").unicodeScalars))
    if pattern.has("String") {
        let old = Scalars(try pattern.text("String").unicodeScalars)
        return { $0.replacing(old, with: content) }
    }
    let regex = try pattern.text("Regex")
    guard regex.hasPrefix(" {"), regex.hasSuffix(",}"), let least = Int(regex.dropFirst(2).dropLast(2)) else {
        throw part.unknown("replaces the pattern '\(regex)'")
    }
    return { text in
        var (made, at) = (Scalars(), 0)
        while at < text.count {
            let run = text[at...].prefix { $0 == " " }.count
            if run >= least {
                made += content
            } else {
                made += text[at..<at + max(run, 1)]
            }
            at += max(run, 1)
        }
        return made
    }
}

/// BERT's: control characters out, spaces around ideographs, accents off, small letters.
private func bert(_ part: Part) throws -> Normalizer {
    let (clean, ideographs, lower) = (try part.flag("clean_text"), try part.flag("handle_chinese_chars"), try part.flag("lowercase"))
    let bare = try part.flag("strip_accents", or: lower)
    return { text in
        var made = text
        if clean { made = made.compactMap(cleaned) }
        if ideographs { made = made.flatMap { isIdeograph($0.value) ? [" ", $0, " "] : [$0] } }
        if bare { made = String(made).decomposedStringWithCanonicalMapping.unicodeScalars.filter { $0.properties.generalCategory != .nonspacingMark } }
        return lower ? made.flatMap { $0.properties.lowercaseMapping.unicodeScalars } : made
    }
}

private func cleaned(_ letter: Unicode.Scalar) -> Unicode.Scalar? {
    if letter == "\t" || letter == "\n" || letter == "\r" { return " " }
    switch letter.properties.generalCategory {
    case .control, .format, .privateUse: return nil
    default: return letter == "\u{FFFD}" ? nil : letter.isSpace ? " " : letter
    }
}

/// CJK as BERT counts it; neither kana nor hangul.
private func isIdeograph(_ code: UInt32) -> Bool {
    switch code {
    case 0x4E00...0x9FFF, 0x3400...0x4DBF, 0x20000...0x2A6DF, 0x2A700...0x2B73F, 0x2B740...0x2B81F, 0x2B920...0x2CEAF, 0xF900...0xFAFF,
        0x2F800...0x2FA1F:
        true
    default: false
    }
}

/// SentencePiece's table of replacements: a double array over UTF-8 bytes, then the texts, each with a 0 behind it.
private struct CharsMap: Sendable {
    private let units: [UInt32]
    private let texts: [UInt8]
    /// The longest cluster, in bytes, that is looked up as a whole, less one.
    private static let whole = 6

    init(base64: String) throws {
        guard let data = Data(base64Encoded: base64) else {
            throw EdgeKitError.bundle(.invalid, "tokenizer.json: its precompiled_charsmap is not base64; convert the model again")
        }
        let bytes = [UInt8](data)
        func unit(_ at: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << (8 * UInt32($1)) } }
        let size = bytes.count >= 4 ? Int(unit(0)) : 0
        guard size >= 4, size % 4 == 0, 4 + size <= bytes.count, bytes.last == 0 else {
            throw EdgeKitError.bundle(.invalid, "tokenizer.json: its precompiled_charsmap is cut off; convert the model again")
        }
        units = (0..<size / 4).map { unit(4 + 4 * $0) }
        texts = Array(bytes[(4 + size)...])
    }

    /// What stands for a text: that of its shortest beginning, as SentencePiece's readers have it.
    private func replacement(_ bytes: [UInt8]) -> Scalars? {
        func offset(_ unit: UInt32) -> Int { Int((unit >> 10) << ((unit & 0x200) >> 6)) }
        var at = offset(units[0])
        for byte in bytes {
            at ^= Int(byte)
            guard byte != 0, at < units.count, units[at] & 0x8000_00FF == UInt32(byte) else { return nil }
            let unit = units[at]
            at ^= offset(unit)
            if unit & 0x100 != 0 {
                guard at < units.count else { return nil }
                let text = texts.dropFirst(Int(units[at] & 0x7FFF_FFFF)).prefix { $0 != 0 }
                return Scalars(String(decoding: text, as: UTF8.self).unicodeScalars)
            }
        }
        return nil
    }

    @Sendable func normalize(_ text: Scalars) -> Scalars {
        String(text).flatMap { cluster -> Scalars in
            let bytes = Array(cluster.utf8)
            if bytes.count < CharsMap.whole, let found = replacement(bytes) { return found }
            return cluster.unicodeScalars.flatMap { replacement([$0].utf8) ?? [$0] }
        }
    }
}
