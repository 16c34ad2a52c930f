/// Files that an ONNX file has an engine read beside it: weights as external data, and compiled contexts.
///
/// The file is walked as protobuf, without reading its weights; the numbers of fields are those of onnx.proto. Most files
/// name no other, which one search for a word tells.
package enum ONNXFile {
    /// Not whole as protobuf.
    package struct Broken: Error {
        package let what: String
    }

    private enum Kind { case model, training, graph, function, node, attribute, sparse, tensor }

    /// What leads to tensors: fields of each kind of message, with the kind that they hold.
    private static func inside(_ kind: Kind, _ field: Int) -> Kind? {
        switch (kind, field) {
        case (.model, 7), (.training, 1), (.training, 2), (.attribute, 6), (.attribute, 11): .graph
        case (.model, 20): .training
        case (.model, 25): .function
        case (.graph, 1), (.function, 7): .node
        case (.graph, 5), (.attribute, 5), (.attribute, 10), (.sparse, 1), (.sparse, 2): .tensor
        case (.graph, 15), (.attribute, 22), (.attribute, 23): .sparse
        case (.function, 11), (.node, 5): .attribute
        default: nil
        }
    }

    /// Messages inside one another.
    private static let deepest = 100

    /// Words without which no file names another.
    private static let words = ["location", "ep_cache_context"].map { Array($0.utf8) }

    private struct Field {
        let number: Int
        let wire: Int
        let range: Range<Int>
    }

    /// What the tensors and contexts of an ONNX file name as their place. Throws `Broken`.
    package static func named(in data: UnsafeRawBufferPointer) throws -> Set<String> {
        guard words.contains(where: { contains(data, $0) }) else { return [] }
        var found: Set<String> = []
        try walk(data, 0..<data.count, .model, 0, &found)
        return found
    }

    private static func contains(_ data: UnsafeRawBufferPointer, _ word: [UInt8]) -> Bool {
        guard data.count >= word.count else { return false }
        for at in 0...(data.count - word.count) where data[at] == word[0] {
            if word.indices.allSatisfy({ data[at + $0] == word[$0] }) { return true }
        }
        return false
    }

    private static func walk(
        _ data: UnsafeRawBufferPointer, _ range: Range<Int>, _ kind: Kind, _ depth: Int, _ found: inout Set<String>
    ) throws {
        if depth > deepest { throw Broken(what: "more than \(deepest) messages inside one another") }
        let all = try fields(data, range)
        if kind == .tensor {
            // Entries of external data are keys (field 1) and values (2).
            for one in all where one.number == 13 && one.wire == 2 {
                let parts = try texts(data, one)
                if parts[1] == "location" { found.insert(parts[2] ?? "") }
            }
            return
        }
        if kind == .node { try context(data, all, &found) }
        for one in all where one.wire == 2 {
            if let inner = inside(kind, one.number) { try walk(data, one.range, inner, depth + 1, &found) }
        }
    }

    /// The file of an `EPContext` whose context is not embedded; `embed_mode` is 1 where it is, and by default.
    private static func context(_ data: UnsafeRawBufferPointer, _ fields: [Field], _ found: inout Set<String>) throws {
        let all = fields.filter { $0.wire == 2 }
        guard all.contains(where: { $0.number == 4 && text(data, $0.range) == "EPContext" }) else { return }
        var contexts: [String] = []
        var embedded = true
        for one in all where one.number == 5 {
            let parts = try texts(data, one)
            if parts[1] == "ep_cache_context" { contexts.append(parts[4] ?? "") }
            if parts[1] == "embed_mode" {
                let mode = try self.fields(data, one.range).last { $0.number == 3 && $0.wire == 0 }
                if try mode.map({ try varint(data, $0.range.lowerBound, $0.range.upperBound).value }) != 1 { embedded = false }
            }
        }
        if !embedded { found.formUnion(contexts.filter { !$0.isEmpty }) }
    }

    private static func text(_ data: UnsafeRawBufferPointer, _ range: Range<Int>) -> String {
        String(decoding: UnsafeRawBufferPointer(rebasing: data[range]), as: UTF8.self)
    }

    /// The texts of a message by their field.
    private static func texts(_ data: UnsafeRawBufferPointer, _ field: Field) throws -> [Int: String] {
        var found: [Int: String] = [:]
        for one in try fields(data, field.range) where one.wire == 2 { found[one.number] = text(data, one.range) }
        return found
    }

    /// Number, wire type and place of every field.
    private static func fields(_ data: UnsafeRawBufferPointer, _ range: Range<Int>) throws -> [Field] {
        var found: [Field] = []
        var at = range.lowerBound
        let end = range.upperBound
        while at < end {
            let (tag, after) = try varint(data, at, end)
            at = after
            let wire = Int(tag % 8)
            var size = 0
            switch wire {
            case 0: size = try varint(data, at, end).after - at
            case 1: size = 8
            case 5: size = 4
            case 2:
                let (length, start) = try varint(data, at, end)
                guard length <= UInt64(end - start) else { throw Broken(what: "a field that ends behind its message") }
                (size, at) = (Int(length), start)
            default: throw Broken(what: "a field of wire type \(wire)")
            }
            if at + size > end { throw Broken(what: "a field that ends behind its message") }
            found.append(Field(number: Int(tag / 8), wire: wire, range: at..<at + size))
            at += size
        }
        return found
    }

    /// An integer of at most 10 bytes, and where it ends.
    private static func varint(_ data: UnsafeRawBufferPointer, _ start: Int, _ end: Int) throws -> (value: UInt64, after: Int) {
        var value: UInt64 = 0
        for i in 0..<10 {
            guard start + i < end else { throw Broken(what: "an integer that ends behind its message") }
            let byte = data[start + i]
            value |= UInt64(byte & 127) << UInt64(7 * i)
            if byte < 128 { return (value, start + i + 1) }
        }
        throw Broken(what: "an integer of more than 10 bytes")
    }
}
