/// A value that is not what it must be; `path` is where.
package struct Invalid: Error, CustomStringConvertible {
    package let what: String
    package let path: String

    package init(_ what: String, _ path: String) {
        self.what = what
        self.path = path
    }

    package var description: String { path.isEmpty ? what : "\(what) - at `$\(path)`" }
}

/// Reads a value of one type from JSON; throws `Invalid`.
package typealias Reader<T> = @Sendable (JSON, String) throws -> T

/// The fields of one JSON object, read one by one. What is not asked for is refused by `finish`.
package final class Fields {
    private let object: JSON.Object
    package let path: String
    package private(set) var names: [String] = []

    package init(_ node: JSON, _ path: String) throws {
        guard case .object(let object) = node else { throw expected("object", node, path) }
        self.object = object
        self.path = path
    }

    /// A field that must be there.
    package func read<T>(_ name: String, _ reader: Reader<T>) throws -> T {
        names.append(name)
        guard let node = object[name] else { throw Invalid("Object missing required field `\(name)`", path) }
        return try reader(node, "\(path).\(name)")
    }

    /// A field that may be left out.
    package func read<T>(_ name: String, _ reader: Reader<T>, or fallback: T) throws -> T {
        names.append(name)
        return try object[name].map { try reader($0, "\(path).\(name)") } ?? fallback
    }

    /// A field that may be left out, and then is nil.
    package func maybe<T>(_ name: String, _ reader: Reader<T>) throws -> T? {
        names.append(name)
        return try object[name].map { try reader($0, "\(path).\(name)") }
    }

    package func finish() throws {
        for (key, _) in object.entries where !names.contains(where: { $0.utf8.elementsEqual(key.utf8) }) {
            throw Invalid("Object contains unknown field `\(key)`", path)
        }
    }
}

/// Readers of plain values.
package enum Read {
    package static func string(_ node: JSON, _ path: String) throws -> String {
        guard case .string(let value) = node else { throw expected("str", node, path) }
        return value
    }

    package static func bool(_ node: JSON, _ path: String) throws -> Bool {
        guard case .bool(let value) = node else { throw expected("bool", node, path) }
        return value
    }

    package static func int(_ node: JSON, _ path: String) throws -> Int {
        guard case .number(let number) = node, number.isWhole else { throw expected("int", node, path) }
        guard let value = Int(number.text) else { throw Invalid("Integer value out of range", path) }
        return value
    }

    package static func int(from least: Int, to most: Int = .max) -> Reader<Int> {
        { node, path in
            let value = try int(node, path)
            if value < least { throw Invalid("Expected `int` >= \(least)", path) }
            if value > most { throw Invalid("Expected `int` <= \(most)", path) }
            return value
        }
    }

    package static func float(_ node: JSON, _ path: String) throws -> Double {
        guard case .number(let number) = node else { throw expected("float", node, path) }
        return number.value
    }

    package static func positive(_ node: JSON, _ path: String) throws -> Double {
        let value = try float(node, path)
        if value <= 0 { throw Invalid("Expected `float` > 0", path) }
        return value
    }

    package static func list<T>(_ reader: @escaping Reader<T>, most: Int = .max) -> Reader<[T]> {
        { node, path in
            guard case .array(let items) = node else { throw expected("array", node, path) }
            if items.count > most { throw Invalid("Expected `array` of length <= \(most)", path) }
            return try items.enumerated().map { try reader($1, "\(path)[\($0)]") }
        }
    }

    package static func list<T>(of count: Int, _ reader: @escaping Reader<T>) -> Reader<[T]> {
        { node, path in
            let items = try list(reader)(node, path)
            if items.count != count { throw Invalid("Expected `array` of length \(count)", path) }
            return items
        }
    }

    package static func dict<T>(_ reader: @escaping Reader<T>) -> Reader<[String: T]> {
        { node, path in
            guard case .object(let object) = node else { throw expected("object", node, path) }
            var found: [String: T] = [:]
            for (key, value) in object.entries { found[key] = try reader(value, "\(path)[...]") }
            return found
        }
    }

    package static func object(_ node: JSON, _ path: String) throws -> JSON {
        guard case .object = node else { throw expected("object", node, path) }
        return node
    }

    package static func nullable<T>(_ reader: @escaping Reader<T>) -> Reader<T?> {
        { node, path in
            if case .null = node { return nil }
            return try reader(node, path)
        }
    }

    /// One of the words of an enumeration.
    package static func word<W: RawRepresentable & CaseIterable & Sendable>(_ type: W.Type = W.self) -> Reader<W> where W.RawValue == String {
        { node, path in
            let given = try string(node, path)
            guard let value = W(rawValue: given) else {
                throw Invalid("Invalid enum value '\(given)'; valid: \(W.allCases.map(\.rawValue).joined(separator: ", "))", path)
            }
            return value
        }
    }

    package static func word(_ valid: String...) -> Reader<String> {
        { node, path in
            let given = try string(node, path)
            if !valid.contains(given) { throw Invalid("Invalid enum value '\(given)'; valid: \(valid.joined(separator: ", "))", path) }
            return given
        }
    }

    /// A structure: all that `body` does not ask for is refused.
    package static func structure<T>(_ body: @escaping @Sendable (Fields) throws -> T) -> Reader<T> {
        { node, path in
            let fields = try Fields(node, path)
            let value = try body(fields)
            try fields.finish()
            return value
        }
    }
}

private func expected(_ what: String, _ node: JSON, _ path: String) -> Invalid {
    let given =
        switch node {
        case .null: "null"
        case .bool: "bool"
        case .string: "str"
        case .number(let number): number.isWhole ? "int" : "float"
        case .array: "array"
        case .object: "object"
        }
    return Invalid("Expected `\(what)`, got `\(given)`", path)
}
