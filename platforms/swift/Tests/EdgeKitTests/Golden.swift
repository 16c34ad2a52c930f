import Foundation

@testable import EdgeKit

/// The root of the project.
let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../../..").standardizedFileURL

/// What a case gives or expects: numbers are flat, however they were nested.
indirect enum Value {
    case numbers([Double])
    case text(String)
    case bool(Bool)
    case none
    case list([Value])
    case object([String: Value])

    static func numbers(_ values: [Float]) -> Value { .numbers(values.map(Double.init)) }
    static func numbers(_ values: [Int]) -> Value { .numbers(values.map(Double.init)) }
    static func numbers(_ boxes: [Box]) -> Value { .numbers(boxes.flatMap { [$0.x1, $0.y1, $0.x2, $0.y2] }) }
    static func numbers(_ points: [[Keypoint]]) -> Value { .numbers(points.joined().flatMap { [$0.x, $0.y, $0.score] }) }

    var numbers: [Double] {
        if case .numbers(let values) = self { return values }
        return []
    }

    subscript(key: String) -> Value {
        if case .object(let entries) = self { return entries[key] ?? .none }
        return .none
    }

    var items: [Value] {
        if case .list(let items) = self { return items }
        return []
    }

    var text: String? {
        if case .text(let text) = self { return text }
        return nil
    }
}

/// One case of the golden set.
struct Case {
    let name: String
    let folder: URL
    let mustFail: Bool
    let given: JSON
    let expected: Value
    let tolerance: Value

    /// How far entries of a name may be apart.
    func tolerance(_ name: String) -> Double { tolerance[name].numbers.first ?? 0 }

    /// All cases of a kind, by name.
    static func stored(_ kind: String) throws -> [Case] {
        let place = root.appendingPathComponent("golden/\(kind)")
        return try FileManager.default.contentsOfDirectory(atPath: place.path).sorted().compactMap { name in
            let folder = place.appendingPathComponent(name)
            guard let data = try? Data(contentsOf: folder.appendingPathComponent("case.json")) else { return nil }
            let document = try JSON(parsing: Array(data))
            return Case(
                name: name, folder: folder, mustFail: document["must_fail"].flag, given: document["given"],
                expected: try Value(document["expected"], folder), tolerance: try Value(document["tolerance"], folder))
        }
    }
}

extension JSON {
    subscript(key: String) -> JSON {
        if case .object(let object) = self { return object[key] ?? .null }
        return .null
    }

    var flag: Bool {
        if case .bool(let value) = self { return value }
        return false
    }

    var number: Double? {
        if case .number(let number) = self { return number.value }
        return nil
    }

    var string: String? {
        if case .string(let text) = self { return text }
        return nil
    }

    var items: [JSON] {
        if case .array(let items) = self { return items }
        return []
    }

    var flat: [Double] { number.map { [$0] } ?? items.flatMap(\.flat) }

    var isMissing: Bool {
        if case .null = self { return true }
        return false
    }

    /// The array that this describes, in 64 bits. Infinities and NaN are only in files.
    func array(_ folder: URL) throws -> (data: [Double], shape: [Int]) {
        let shape = self["shape"].flat.map { Int($0) }
        if let file = self["file"].string {
            let bytes = [UInt8](try Data(contentsOf: folder.appendingPathComponent(file)))
            return bytes.withUnsafeBytes { raw in
                switch self["dtype"].string {
                case "uint8": (raw.map { Double($0) }, shape)
                case "int32": (raw.bindMemory(to: Int32.self).map { Double(Int32(littleEndian: $0)) }, shape)
                default: (raw.bindMemory(to: UInt32.self).map { Double(Float(bitPattern: UInt32(littleEndian: $0))) }, shape)
                }
            }
        }
        if !self["values"].isMissing { return (self["values"].flat, shape) }
        let rule = self["recurrence"]
        let (offset, scale) = (rule["offset"].number!, rule["scale"].number!)
        var x = UInt32(rule["seed"].number!)
        var data = (0..<shape.reduce(1, *)).map { _ in
            x = x &* 1_664_525 &+ 1_013_904_223
            return Double(Float(offset + scale * Double(x / 256) / 16_777_216))
        }
        for pair in self["set"].items { data[Int(pair.items[0].number!)] = Double(Float(pair.items[1].number!)) }
        return (data, shape)
    }

    func tensor(_ folder: URL) throws -> Tensor {
        let (data, shape) = try array(folder)
        return Tensor(data.map { Float($0) }, shape: shape)
    }
}

extension Value {
    init(_ json: JSON, _ folder: URL) throws {
        switch json {
        case .null: self = .none
        case .bool(let flag): self = .bool(flag)
        case .string(let text): self = .text(text)
        case .number(let number): self = .numbers([number.value])
        case .array(let items):
            let values = try items.map { try Value($0, folder) }
            let flat = values.compactMap { value in
                if case .numbers(let numbers) = value { return numbers }
                return nil
            }
            self = flat.count == values.count ? .numbers(flat.flatMap { $0 }) : .list(values)
        case .object(let object):
            if object["dtype"] != nil && object["shape"] != nil {
                self = .numbers(try json.array(folder).data)
            } else {
                self = .object(Dictionary(uniqueKeysWithValues: try object.entries.map { ($0.key, try Value($0.value, folder)) }))
            }
        }
    }
}

/// In what two values differ: whole numbers and texts exactly, other numbers within the tolerance of their entry.
func apart(_ expected: Value, _ answered: Value, _ tolerance: [String: Double] = [:], _ place: String = "") -> [String] {
    switch (expected, answered) {
    case (.numbers(let one), .numbers(let other)):
        if one.count != other.count { return ["\(place): \(other.count) numbers, not \(one.count)"] }
        let name = String(place.split(separator: ".").last ?? "").replacingOccurrences(of: "[0-9\\[\\]]+$", with: "", options: .regularExpression)
        let allowed = tolerance[name] ?? 0
        // An answer of NaN is off by any distance.
        let most = zip(one, other).map { $0 == $1 ? 0 : $1.isNaN ? .infinity : abs($0 - $1) }.max() ?? 0
        return most <= allowed ? [] : ["\(place): off by \(most), \(allowed) is allowed"]
    case (.list(let one), .list(let other)):
        if one.count != other.count { return ["\(place): \(other.count) entries, not \(one.count)"] }
        return zip(one, other).enumerated().flatMap { apart($1.0, $1.1, tolerance, "\(place)[\($0)]") }
    case (.object(let one), .object(let other)):
        if Set(one.keys) != Set(other.keys) { return ["\(place): has \(other.keys.sorted()), not \(one.keys.sorted())"] }
        return one.keys.sorted().flatMap { apart(one[$0]!, other[$0]!, tolerance, place.isEmpty ? $0 : "\(place).\($0)") }
    // Swift's own comparison takes an accent that is composed in another way for the same.
    case (.text(let one), .text(let other)): return one.utf8.elementsEqual(other.utf8) ? [] : ["\(place): '\(other)', not '\(one)'"]
    case (.bool(let one), .bool(let other)): return one == other ? [] : ["\(place): \(other), not \(one)"]
    case (.none, .none): return []
    default: return ["\(place): \(answered), not \(expected)"]
    }
}
