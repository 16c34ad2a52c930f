/// How tokens (UTF-8) become a text again.
typealias TokenDecoder = @Sendable ([[UInt8]]) -> String

func tokenDecoder(_ part: Part) throws -> TokenDecoder {
    switch try part.text("type") {
    case "ByteLevel":
        return { tokens in
            String(decoding: tokens.flatMap { token -> [UInt8] in
                let found = String(decoding: token, as: UTF8.self).unicodeScalars.map { ByteLetters.bytes[$0] }
                return found.contains(nil) ? token : found.compactMap { $0 }
            }, as: UTF8.self)
        }
    case "Metaspace":
        let (mark, scheme) = try Metaspace.read(part)
        let letters = [mark].utf8
        return { tokens in
            String(decoding: tokens.enumerated().flatMap { place, token in
                token.replacing(letters, with: place == 0 && scheme != "never" ? [] : [0x20])
            }, as: UTF8.self)
        }
    case "WordPiece":
        let (prefix, cleanup) = (Array(try part.text("prefix").utf8), try part.flag("cleanup", or: true))
        return { tokens in
            String(decoding: tokens.enumerated().flatMap { place, token -> [UInt8] in
                let one = place == 0 ? token : token.starts(with: prefix) ? Array(token.dropFirst(prefix.count)) : [0x20] + token
                return cleanup ? cleaned(one) : one
            }, as: UTF8.self)
        }
    case let other: throw part.unknown("is the decoder '\(other)'")
    }
}

private let cleanups: [([UInt8], [UInt8])] = [
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" do not", " don't"), (" 's", "'s"),
    (" 've", "'ve"), (" 're", "'re"),
].map { (Array($0.utf8), Array($1.utf8)) }

private func cleaned(_ token: [UInt8]) -> [UInt8] {
    cleanups.reduce(token) { $0.replacing($1.0, with: $1.1) }
}
