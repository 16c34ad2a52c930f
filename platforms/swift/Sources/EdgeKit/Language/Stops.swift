/// The text before the first of these stop texts; the whole text if none occurs. In UTF-8, where no letter is another.
func cut(_ text: [UInt8], _ stop: [[UInt8]]) -> [UInt8] {
    let places = stop.compactMap { one in text.indices.first { text.has(one, at: $0) } }
    return places.min().map { Array(text[..<$0]) } ?? text
}

/// `cut` for a text in pieces: what is sure of each. A possible beginning of a stop text is held back until it is decided.
struct Cutter {
    private let stop: [[UInt8]]
    private var held: [UInt8] = []
    /// Whether a stop text was found.
    private(set) var ended = false

    init(_ stop: [String]) { self.stop = stop.map { Array($0.utf8) } }

    /// What is sure after another piece.
    mutating func add(_ piece: String) -> String {
        held += piece.utf8
        let whole = cut(held, stop)
        ended = whole.count != held.count
        let sure = ended ? whole : Array(held.dropLast(begun))
        held = ended ? [] : Array(held.dropFirst(sure.count))
        return String(decoding: sure, as: UTF8.self)
    }

    /// What was held back, when no more pieces come.
    var rest: String { String(decoding: held, as: UTF8.self) }

    /// Length of the longest ending that begins a stop text; it never cuts a character.
    private var begun: Int {
        stop.flatMap { one in (0...min(one.count, held.count)).filter { held.suffix($0) == one.prefix($0) && ($0 == 0 || isBoundary(held.count - $0)) } }.max() ?? 0
    }

    private func isBoundary(_ place: Int) -> Bool { held[place] & 0xC0 != 0x80 }
}
