/// JSON that keeps what Foundation's parser drops: whether a number is whole, and every digit of it.
///
/// The digest of a manifest is a hash of its canonical form, in which 1 and 1.0 differ.
package indirect enum JSON: Sendable {
    case null
    case bool(Bool)
    case string(String)
    case number(Number)
    case array([JSON])
    case object(Object)

    /// A number and how it was written.
    package struct Number: Sendable {
        package let value: Double
        package let text: String

        /// Whether it was written without point and exponent.
        package var isWhole: Bool { !text.utf8.contains { $0 == 46 || $0 == 69 || $0 == 101 } }
    }

    /// Keys are compared byte by byte: to Swift's strings, two spellings of an accented letter are equal.
    package struct Object: Sendable {
        package private(set) var entries: [(key: String, value: JSON)] = []
        private var places: [[UInt8]: Int] = [:]

        package init() {}

        package subscript(key: String) -> JSON? {
            get { places[Array(key.utf8)].map { entries[$0].value } }
            set {
                guard let newValue else { return }
                let bytes = Array(key.utf8)
                if let place = places[bytes] {
                    entries[place].value = newValue
                } else {
                    places[bytes] = entries.count
                    entries.append((key, newValue))
                }
            }
        }
    }
}

/// Why a text is not JSON.
package struct MalformedJSON: Error, CustomStringConvertible {
    package let description: String
}

extension JSON {
    /// Parse UTF-8 bytes. Throws `MalformedJSON`.
    package init(parsing bytes: [UInt8]) throws(MalformedJSON) {
        guard String(decoding: bytes, as: UTF8.self).utf8.elementsEqual(bytes) else {
            throw MalformedJSON(description: "a text in it is not UTF-8")
        }
        var parser = Parser(bytes)
        self = try parser.value(0)
        parser.space()
        if parser.at < bytes.count { throw parser.wrong("trailing characters") }
    }
}

private struct Parser {
    private let bytes: [UInt8]
    var at = 0
    /// Brackets nested deeper than this are refused.
    private static let deepest = 500

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    private var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    func wrong(_ what: String) -> MalformedJSON { MalformedJSON(description: "JSON is malformed: \(what) (byte \(at))") }

    mutating func space() {
        while let byte = next, byte == 0x20 || byte == 0x09 || byte == 0x0A || byte == 0x0D { at += 1 }
    }

    mutating func value(_ depth: Int) throws(MalformedJSON) -> JSON {
        if depth > Parser.deepest { throw wrong("brackets nested too deep") }
        space()
        switch next {
        case UInt8(ascii: "{"): return try object(depth)
        case UInt8(ascii: "["): return try array(depth)
        case UInt8(ascii: "\""): return .string(try string())
        default: break
        }
        if skip("true") { return .bool(true) }
        if skip("false") { return .bool(false) }
        if skip("null") { return .null }
        return .number(try number())
    }

    private mutating func skip(_ word: StaticString) -> Bool {
        let count = word.utf8CodeUnitCount
        guard at + count <= bytes.count else { return false }
        for i in 0..<count where bytes[at + i] != word.utf8Start[i] { return false }
        at += count
        return true
    }

    private mutating func digits() -> Int {
        let start = at
        while let byte = next, byte >= 48, byte <= 57 { at += 1 }
        return at - start
    }

    private mutating func number() throws(MalformedJSON) -> JSON.Number {
        let start = at
        if next == UInt8(ascii: "-") { at += 1 }
        let zero = next == UInt8(ascii: "0")
        let whole = digits()
        if whole == 0 { throw wrong("invalid character") }
        if zero && whole > 1 { throw wrong("invalid number") }
        if next == UInt8(ascii: ".") {
            at += 1
            if digits() == 0 { throw wrong("invalid number") }
        }
        if next == UInt8(ascii: "e") || next == UInt8(ascii: "E") {
            at += 1
            if next == UInt8(ascii: "+") || next == UInt8(ascii: "-") { at += 1 }
            if digits() == 0 { throw wrong("invalid number") }
        }
        let text = String(decoding: bytes[start..<at], as: UTF8.self)
        guard let value = Double(text), value.isFinite else { throw wrong("number out of range") }
        return JSON.Number(value: value, text: text)
    }

    private mutating func string() throws(MalformedJSON) -> String {
        at += 1
        var text: [UInt8] = []
        while true {
            guard let byte = next, byte >= 0x20 else { throw wrong("invalid character in a text") }
            at += 1
            if byte == UInt8(ascii: "\"") { return String(decoding: text, as: UTF8.self) }
            if byte == UInt8(ascii: "\\") {
                text.append(contentsOf: String(try escape()).utf8)
            } else {
                text.append(byte)
            }
        }
    }

    private mutating func escape() throws(MalformedJSON) -> Character {
        guard let byte = next else { throw wrong("invalid escape") }
        at += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return Character(UnicodeScalar(byte))
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{C}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"): break
        default: throw wrong("invalid escape")
        }
        var code = try unit()
        if code >= 0xD800 && code < 0xDC00 && skip("\\u") {
            let low = try unit()
            guard low >= 0xDC00 && low < 0xE000 else { throw wrong("half a character") }
            code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
        }
        guard let scalar = UnicodeScalar(code) else { throw wrong("half a character") }
        return Character(scalar)
    }

    private mutating func unit() throws(MalformedJSON) -> UInt32 {
        guard at + 4 <= bytes.count, bytes[at..<at + 4].allSatisfy({ UnicodeScalar($0).properties.isASCIIHexDigit }),
            let code = UInt32(String(decoding: bytes[at..<at + 4], as: UTF8.self), radix: 16)
        else { throw wrong("invalid escape") }
        at += 4
        return code
    }

    private mutating func array(_ depth: Int) throws(MalformedJSON) -> JSON {
        var items: [JSON] = []
        at += 1
        space()
        if next == UInt8(ascii: "]") {
            at += 1
            return .array(items)
        }
        repeat { items.append(try value(depth + 1)) } while try more(UInt8(ascii: "]"))
        return .array(items)
    }

    private mutating func object(_ depth: Int) throws(MalformedJSON) -> JSON {
        var entries = JSON.Object()
        at += 1
        space()
        if next == UInt8(ascii: "}") {
            at += 1
            return .object(entries)
        }
        repeat {
            space()
            guard next == UInt8(ascii: "\"") else { throw wrong("a key must be a text") }
            let key = try string()
            space()
            guard next == UInt8(ascii: ":") else { throw wrong("a colon is missing") }
            at += 1
            entries[key] = try value(depth + 1)
        } while try more(UInt8(ascii: "}"))
        return .object(entries)
    }

    /// Step over a comma; false at the closing bracket.
    private mutating func more(_ closing: UInt8) throws(MalformedJSON) -> Bool {
        space()
        let byte = next
        guard byte == closing || byte == UInt8(ascii: ",") else { throw wrong("a comma or bracket is missing") }
        at += 1
        return byte != closing
    }
}

extension JSON {
    /// The canonical form: keys in the order of their code points, no spaces, floats as their shortest digits.
    package var canonical: String {
        var text = ""
        write(to: &text)
        return text
    }

    private func write(to text: inout String) {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .string(let value): JSON.write(value, to: &text)
        case .number(let number):
            text += number.isWhole ? (number.text == "-0" ? "0" : number.text) : JSON.written(number.value)
        case .array(let items):
            text += "["
            for (place, item) in items.enumerated() {
                if place > 0 { text += "," }
                item.write(to: &text)
            }
            text += "]"
        case .object(let object):
            text += "{"
            // The order of UTF-8 bytes is that of code points.
            let sorted = object.entries.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
            for (place, entry) in sorted.enumerated() {
                if place > 0 { text += "," }
                JSON.write(entry.key, to: &text)
                text += ":"
                entry.value.write(to: &text)
            }
            text += "}"
        }
    }

    /// A text with control characters escaped and all others left alone.
    private static func write(_ value: String, to text: inout String) {
        text += "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\u{8}": text += "\\b"
            case "\u{C}": text += "\\f"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            case "\u{0}"..<"\u{20}":
                let digits = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }

    /// A float as Python's msgspec writes it: `1.0`, `0.00001`, `1e-6`, `1e16`.
    private static func written(_ value: Double) -> String {
        if value == 0 { return value.sign == .minus ? "-0.0" : "0.0" }
        let sign = value < 0 ? "-" : ""
        // The shortest digits that read back as this value, as Swift has them: 1.25, 0.0001, 1e-05, 1.5e+16.
        let parts = value.magnitude.description.split(separator: "e")
        let mantissa = parts[0].split(separator: ".", omittingEmptySubsequences: false)
        let fraction = mantissa.count > 1 ? String(mantissa[1]) : ""
        var digits = String(mantissa[0]) + fraction
        var point = mantissa[0].count + (parts.count > 1 ? Int(parts[1]) ?? 0 : 0)  // digits before the decimal point
        let leading = digits.prefix { $0 == "0" }.count
        digits.removeFirst(leading)
        point -= leading
        while digits.count > 1 && digits.last == "0" { digits.removeLast() }
        if digits.count <= point && point <= 16 {
            return sign + digits + String(repeating: "0", count: point - digits.count) + ".0"
        }
        if point > 0 && point <= 16 { return sign + digits.prefix(point) + "." + digits.dropFirst(point) }
        if point > -5 && point <= 0 { return sign + "0." + String(repeating: "0", count: -point) + digits }
        let rest = digits.dropFirst()
        return sign + digits.prefix(1) + (rest.isEmpty ? "" : "." + rest) + "e\(point - 1)"
    }
}
