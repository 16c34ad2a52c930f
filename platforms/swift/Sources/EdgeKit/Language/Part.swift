/// One object of a `tokenizer.json`. Whatever it lacks is an `EdgeKitError.bundle` that names it.
struct Part {
    private let fields: JSON.Object
    let place: String

    init(_ value: JSON?, _ place: String) throws {
        guard case .object(let fields)? = value else {
            throw EdgeKitError.bundle(.invalid, "tokenizer.json: has no object where its \(place) should be; convert the model again")
        }
        (self.fields, self.place) = (fields, place)
    }

    func wrong(_ what: String) -> EdgeKitError {
        .bundle(.invalid, "tokenizer.json: its \(place) \(what); convert the model again")
    }

    func unknown(_ what: String) -> EdgeKitError {
        .bundle(.invalid, "tokenizer.json: its \(place) \(what), which this package does not know; convert a model with an OPT, T5 or BERT tokenizer")
    }

    /// A value; nil where it is missing or null.
    func json(_ name: String) -> JSON? {
        guard let found = fields[name] else { return nil }
        if case .null = found { return nil }
        return found
    }

    func has(_ name: String) -> Bool { json(name) != nil }

    func text(_ name: String) throws -> String {
        guard case .string(let found)? = json(name) else { throw wrong("has no text '\(name)'") }
        return found
    }

    func flag(_ name: String, or fallback: Bool = false) throws -> Bool {
        guard let found = json(name) else { return fallback }
        guard case .bool(let flag) = found else { throw wrong("has a '\(name)' that is neither true nor false") }
        return flag
    }

    func count(_ value: JSON?) throws -> Int {
        guard case .number(let number)? = value, let found = Int(exactly: number.value) else { throw wrong("has no number where an id should be") }
        return found
    }

    func number(_ name: String) throws -> Int { try count(json(name)) }

    func array(_ name: String) throws -> [JSON] {
        guard case .array(let found)? = json(name) else { throw wrong("has no list '\(name)'") }
        return found
    }

    func object(_ name: String) throws -> Part { try Part(json(name), "\(place).\(name)") }

    func list(_ name: String) throws -> [Part] { try array(name).map { try Part($0, place) } }

    func entries(_ name: String) throws -> [(key: String, value: JSON)] {
        guard case .object(let found)? = json(name) else { throw wrong("has no object '\(name)'") }
        return found.entries
    }
}

typealias Scalars = [Unicode.Scalar]

extension String {
    init(_ scalars: some Sequence<Unicode.Scalar>) {
        self.init(String.UnicodeScalarView(scalars))
    }
}

extension Sequence where Element == Unicode.Scalar {
    /// UTF-8: what tokens are looked up by. Swift's texts are equal where accents are composed in another way.
    var utf8: [UInt8] { flatMap { UTF8.encode($0)! } }
}

extension Unicode.Scalar {
    var isSpace: Bool { properties.isWhitespace }

    var isLetter: Bool {
        switch properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: true
        default: false
        }
    }

    var isNumber: Bool {
        switch properties.generalCategory {
        case .decimalNumber, .letterNumber, .otherNumber: true
        default: false
        }
    }

    /// Signs of ASCII that are no letters and numbers, and punctuation.
    var isPunctuation: Bool {
        if isASCII { return (33...47).contains(value) || (58...64).contains(value) || (91...96).contains(value) || (123...126).contains(value) }
        switch properties.generalCategory {
        case .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation, .finalPunctuation, .otherPunctuation:
            return true
        default: return false
        }
    }

    /// What a word is made of.
    var isWord: Bool {
        if properties.isAlphabetic || properties.isJoinControl { return true }
        switch properties.generalCategory {
        case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation: return true
        default: return false
        }
    }
}

extension Array where Element: Equatable {
    /// Whether these stand at a place.
    func has(_ other: [Element], at place: Int) -> Bool {
        place + other.count <= count && other.indices.allSatisfy { self[place + $0] == other[$0] }
    }

    /// Each occurrence replaced.
    func replacing(_ old: [Element], with new: [Element]) -> [Element] {
        if old.isEmpty { return self }
        var (made, at) = ([Element](), 0)
        while at < count {
            if has(old, at: at) {
                made += new
                at += old.count
            } else {
                made.append(self[at])
                at += 1
            }
        }
        return made
    }
}
