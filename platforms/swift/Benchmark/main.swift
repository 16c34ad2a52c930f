// How long parts of EdgeKit take on the inputs of a folder that benchmarks/platforms.py writes: milliseconds as JSON.

import EdgeKit
import Foundation

let folder = URL(fileURLWithPath: CommandLine.arguments[1])
let plan = try JSON(parsing: [UInt8](Data(contentsOf: folder.appendingPathComponent("plan.json"))))

func entry(_ node: JSON, _ key: String) -> JSON {
    if case .object(let object) = node { return object[key] ?? .null }
    return .null
}

func numbers(_ node: JSON) -> [Double] {
    switch node {
    case .number(let number): [number.value]
    case .array(let items): items.flatMap(numbers)
    default: []
    }
}

func items(_ node: JSON) -> [JSON] {
    if case .array(let items) = node { return items }
    return []
}

func text(_ node: JSON) -> String {
    if case .string(let text) = node { return text }
    return ""
}

func floats(_ name: String) throws -> [Float] {
    let bytes = [UInt8](try Data(contentsOf: folder.appendingPathComponent(name)))
    return bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
}

/// CPU time of this thread in milliseconds.
func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) * 1e3 + Double(time.tv_nsec) * 1e-6
}

/// Milliseconds of the fastest of many turns.
func fastest(_ turns: Int, _ work: () throws -> Void) rethrows -> Double {
    var best = Double.infinity
    for _ in 0..<turns {
        let begun = now()
        try work()
        best = min(best, now() - begun)
    }
    return best
}

var found: [String: Double] = [:]

for one in items(entry(plan, "tasks")) {
    let contract = try Contract.read(entry(one, "contract"), "")
    let task = try openTask(contract)
    let size = numbers(entry(one, "size")).map { Int($0) }
    let mapping = Transform(contract.image, width: size[0], height: size[1])
    let outputs = try items(entry(one, "outputs")).map { output in
        Tensor(try floats(text(entry(output, "file"))), shape: numbers(entry(output, "shape")).map { Int($0) })
    }
    found[text(entry(one, "name"))] = try fastest(60) { _ = try task.result(outputs, mapping, Thresholds()) }
}

let picture = entry(plan, "picture")
let size = numbers(entry(picture, "size")).map { Int($0) }
let frame = try Frame(
    pixels: [UInt8](Data(contentsOf: folder.appendingPathComponent(text(entry(picture, "file"))))), width: size[0], height: size[1],
    format: .rgb)
var preprocessor = Preprocessor(try ImageRule.read(entry(picture, "rule"), ""))
found["letterbox"] = fastest(60) { _ = preprocessor.run(frame.upright) }

for one in items(entry(plan, "tracks")) {
    let frames = items(entry(one, "frames")).map { frame in
        let values = numbers(entry(frame, "boxes")).map { Float($0) }
        let boxes = stride(from: 0, to: values.count, by: 4).map { Box(values[$0], values[$0 + 1], values[$0 + 2], values[$0 + 3]) }
        return (boxes: boxes, scores: numbers(entry(frame, "scores")).map { Float($0) })
    }
    for name in ["sort", "bytetrack", "ocsort", "botsort"] {
        // Of each frame the fastest turn counts.
        var best = [Double](repeating: .infinity, count: frames.count)
        for _ in 0..<5 {
            var tracker = try Tracker(named: name)
            for (number, frame) in frames.enumerated() {
                let ids = [Int](repeating: 0, count: frame.boxes.count)
                let begun = now()
                _ = try tracker.update(boxes: frame.boxes, scores: frame.scores, classIds: ids, time: Double(number) / 30)
                best[number] = min(best[number], now() - begun)
            }
        }
        found["\(name) \(text(entry(one, "name")))"] = best.reduce(0, +) / Double(best.count)
    }
}

print(String(decoding: try JSONEncoder().encode(found), as: UTF8.self))
