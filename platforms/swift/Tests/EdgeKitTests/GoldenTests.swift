import Foundation
import Testing

@testable import EdgeKit

/// The golden set: every case gives what it says, and no planted error passes.
struct GoldenTests {
    private static let kinds: [String: @Sendable (Case) async throws -> [String]] = [
        "preprocess": preprocess, "decode": decode, "nms": nms, "rle": rle, "track": track, "smooth": smooth, "oks_nms": oksNMS,
        "top_down": topDown, "manifest": manifest, "tokenizer": tokenizer, "generation": generation,
    ]

    @Test(arguments: Array(kinds.keys.sorted()))
    func everyCase(of kind: String) async throws {
        let cases = try Case.stored(kind)
        #expect(cases.count > 5 && cases.contains { $0.mustFail })
        for one in cases {
            let found = try await GoldenTests.kinds[kind]!(one)
            if one.mustFail {
                #expect(!found.isEmpty, "\(one.name): passes, and must fail")
            } else {
                #expect(found.isEmpty, "\(one.name): \(found.prefix(3).joined(separator: "; "))")
            }
        }
    }

    @Test func everyKindIsRead() throws {
        let golden = root.appendingPathComponent("golden")
        let folders = try FileManager.default.contentsOfDirectory(atPath: golden.path).filter {
            (try? Case.stored($0).isEmpty) == false
        }
        #expect(folders.sorted() == GoldenTests.kinds.keys.sorted())
    }
}

private func error(_ kind: String) -> Value { .object(["error": .text(kind)]) }

@Sendable private func preprocess(_ one: Case) throws -> [String] {
    let rule = try ImageRule.read(one.given["rule"], "")
    let name = one.given["image"].string!
    let picture = try PNG.read([UInt8](Data(contentsOf: one.folder.appendingPathComponent(name))), name: name)
    let frame = try Frame(
        pixels: picture.data, width: picture.width, height: picture.height, format: .rgb,
        orientation: Orientation(rawValue: Int(one.given["orientation"].number ?? 1))!, mirrored: one.given["mirrored"].flag)
    var preprocessor = Preprocessor(rule)
    let (tensor, mapping) = preprocessor.run(frame.upright)
    let found = apart(
        one.expected["transform"],
        .object([
            "scale_x": .numbers([mapping.scaleX]), "scale_y": .numbers([mapping.scaleY]), "offset_x": .numbers([mapping.offsetX]),
            "offset_y": .numbers([mapping.offsetY]), "width": .numbers([mapping.size.width]), "height": .numbers([mapping.size.height]),
            "resized": .numbers([mapping.resized.width, mapping.resized.height]),
        ]), ["scale_x": 1e-12, "scale_y": 1e-12])
    // Not one pixel differs from what OpenCV gave on x86, but for strips, which it samples in another way.
    let exact = rule.interpolation == .linear && !one.name.hasPrefix("strip-")
    return found + levelsApart(one, one.expected["tensor"].numbers, tensor.data, rule, exact: exact)
}

/// In how many grey levels tensors of (n, 3, height, width) differ.
private func levelsApart(
    _ one: Case, _ expected: [Double], _ answered: [Float], _ rule: ImageRule, exact: Bool = false
) -> [String] {
    guard expected.count == answered.count else { return ["tensor: \(answered.count) values, not \(expected.count)"] }
    let cells = rule.width * rule.height
    var (most, differing) = (0.0, 0)
    for i in expected.indices {
        let levels = abs(expected[i] - Double(answered[i])) / (rule.scale / rule.std[i / cells % 3])
        most = max(most, levels)
        if levels > 0.01 { differing += 1 }
    }
    let share = Double(differing) / Double(max(expected.count, 1))
    let (allowed, allowedOf) = exact ? (0.0, 0.0) : (one.tolerance("levels"), one.tolerance("share"))
    if most <= allowed + 0.01 && share <= allowedOf { return [] }
    return ["tensor: \(most) levels apart, \(share) of the values differ"]
}

@Sendable private func decode(_ one: Case) throws -> [String] {
    let contract = try Contract.read(one.given["contract"], "")
    let outputs = try one.given["outputs"].items.map { try $0.tensor(one.folder) }
    let thresholds = Thresholds(score: one.given["score"].number, iou: one.given["iou"].number)
    let mapping = Transform(contract.image, width: Int(one.given["width"].number!), height: Int(one.given["height"].number!))
    let result: EdgeResult
    do {
        result = try openTask(contract).result(outputs, mapping, thresholds)
    } catch let problem as EdgeKitError {
        switch problem {
        case .engine: return apart(one.expected, error("not-finite"))
        case .contract: return apart(one.expected, error("contract"))
        default: return apart(one.expected, error(problem.message))
        }
    }
    let limits = [
        "boxes": one.tolerance("box"), "scores": one.tolerance("score"), "vector": one.tolerance("score"),
        "keypoints": one.tolerance("keypoint"), "oriented": one.tolerance("box"), "angles": one.tolerance("angle"),
    ]
    switch result {
    case .classification(let found):
        let labels = found.labels.isEmpty ? Value.numbers([Double]()) : .list(found.labels.map { .text($0) })
        let top = found.top(one.expected["top_ids"].numbers.count)
        return apart(one.expected, .object(["scores": .numbers(found.scores), "top_ids": .numbers(top), "labels": labels]), limits)
    case .embedding(let found): return apart(one.expected, .object(["vector": .numbers(found.vector)]), limits)
    case .labels(let found):
        let expected = one.expected["labels"].numbers
        guard expected.count == found.labels.count else { return ["labels: \(found.labels.count), not \(expected.count)"] }
        let off = zip(expected, found.labels).filter { $0.0 != Double($0.1) }.count
        return Double(off) <= one.tolerance("label_pixels") ? [] : ["labels: \(off) pixels differ"]
    default: break
    }
    let objects = result.objects!
    var answered: [String: Value] = [
        "boxes": .numbers(objects.boxes), "scores": .numbers(objects.scores), "class_ids": .numbers(objects.classIds),
    ]
    guard case .object(var expected) = one.expected else { return ["no object is expected"] }
    switch result {
    case .poses(let poses): answered["keypoints"] = .numbers(poses.keypoints)
    case .oriented(let boxes):
        answered["oriented"] = .numbers(boxes.oriented.flatMap { [$0.x, $0.y, $0.width, $0.height] })
        answered["angles"] = .numbers(boxes.oriented.map(\.angle))
        if let all = expected["oriented"]?.numbers {
            expected["oriented"] = .numbers(all.enumerated().filter { $0.offset % 5 != 4 }.map(\.element))
            expected["angles"] = .numbers(all.enumerated().filter { $0.offset % 5 == 4 }.map(\.element))
        }
    case .instances(let instances):
        guard let masks = expected.removeValue(forKey: "masks") else { break }
        let wanted = masks.items
        if wanted.count != instances.masks.count { return ["\(instances.masks.count) masks, not \(wanted.count)"] }
        for (mask, document) in zip(instances.masks, wanted) {
            let size = result.info.size
            let before = try RLE(size: size, counts: document["counts"].text!).mask().bitmap(in: size)
            let off = zip(before, mask.bitmap(in: size)).filter { $0 != $1 }.count
            if Double(off) > one.tolerance("mask_pixels") { return ["a mask differs in \(off) pixels"] }
        }
    default: break
    }
    return apart(.object(expected), .object(answered), limits)
}

@Sendable private func nms(_ one: Case) throws -> [String] {
    let kept = nonMaximumSuppression(
        try boxes(one, "boxes"), try one.given["scores"].tensor(one.folder).data,
        try one.given["class_ids"].array(one.folder).data.map { Int($0) }, Float(one.given["iou"].number!),
        classAgnostic: one.given["class_agnostic"].flag)
    return apart(one.expected, .object(["kept": .numbers(kept)]))
}

private func boxes(_ one: Case, _ name: String) throws -> [Box] { boxes(try one.given[name].array(one.folder).data) }

private func boxes(_ values: [Double]) -> [Box] {
    stride(from: 0, to: values.count, by: 4).map {
        Box(Float(values[$0]), Float(values[$0 + 1]), Float(values[$0 + 2]), Float(values[$0 + 3]))
    }
}

private func keypoints(_ values: [Double], _ count: Int) -> [[Keypoint]] {
    stride(from: 0, to: values.count, by: 3 * count).map { first in
        stride(from: first, to: first + 3 * count, by: 3).map {
            Keypoint(x: Float(values[$0]), y: Float(values[$0 + 1]), score: Float(values[$0 + 2]))
        }
    }
}

@Sendable private func rle(_ one: Case) throws -> [String] {
    let given = one.given["rle"]
    if !given.isMissing {
        let sides = given["size"].flat.map { Int($0) }
        do {
            let mask = try RLE(size: Size(width: sides[1], height: sides[0]), counts: given["counts"].string!).mask()
            return apart(one.expected, .object(["mask": .numbers(mask.data.map { Int($0) })]))
        } catch EdgeKitError.input {
            return apart(one.expected, error("input"))
        }
    }
    let (values, shape) = try one.given["mask"].array(one.folder)
    let size = Size(width: shape[1], height: shape[0])
    let mask = Mask(left: 0, top: 0, width: size.width, height: size.height, data: values.map { UInt8($0) })
    let found = mask.rle(in: size)
    let answer = Value.object([
        "rle": .object(["size": .numbers([size.height, size.width]), "counts": .text(found.counts)]), "area": .numbers([mask.area]),
    ])
    let differences = apart(one.expected, answer)
    if !differences.isEmpty { return differences }
    let back = try RLE(size: size, counts: one.expected["rle"]["counts"].text!).mask()
    if back.rle(in: size) != found { return ["the trimmed mask has other runs"] }
    return back.bitmap(in: size) == mask.data ? [] : ["the mask read back is another"]
}

@Sendable private func track(_ one: Case) throws -> [String] {
    var tracker: Tracker
    do {
        let options = try Read.dict(OptionValue.read)(one.given["options"], "")
        tracker = try Tracker(named: one.given["tracker"].string!, options: options)
    } catch EdgeKitError.usage {
        return apart(one.expected, error("usage"))
    }
    let frames = try one.given["frames"].items.map { frame -> Value in
        let time = frame["time"].number!
        do {
            let looks = frame["embeddings"].isMissing ? nil : frame["embeddings"].items.map { $0.flat.map { Float($0) } }
            let tracks =
                frame["predict"].flag
                ? try tracker.predict(time: time)
                : try tracker.update(
                    boxes: boxes(frame["boxes"].flat), scores: frame["scores"].flat.map { Float($0) },
                    classIds: frame["class_ids"].flat.map { Int($0) }, embeddings: looks, time: time)
            let seen = tracks.visible
            return .object([
                "track_ids": .numbers(seen.map(\.id)), "boxes": .numbers(seen.map(\.box)), "scores": .numbers(seen.map(\.score)),
                "class_ids": .numbers(seen.map(\.classId)), "detections": .numbers(seen.map { $0.detection ?? -1 }),
                "lost": .numbers(tracks.all.filter { $0.state == .lost }.map(\.id)),
            ])
        } catch EdgeKitError.usage {
            return error("usage")
        }
    }
    return apart(one.expected, .object(["frames": .list(frames)]), ["boxes": one.tolerance("box"), "scores": one.tolerance("score")])
}

@Sendable private func smooth(_ one: Case) throws -> [String] {
    let options = one.given["options"]
    var filter: OneEuro
    do {
        filter = try OneEuro(
            cutoff: options["cutoff"].number ?? 1, beta: options["beta"].number ?? 4, speedCutoff: options["speed_cutoff"].number ?? 1,
            forgetSeconds: options["forget_seconds"].number ?? 1)
    } catch EdgeKitError.usage {
        return apart(one.expected, error("usage"))
    }
    let frames = try one.given["frames"].items.map { frame -> Value in
        let found = boxes(frame["boxes"].flat)
        let ids = frame["track_ids"].flat.map { Int($0) }
        let count = frame["keypoints"].items.first?.items.count ?? 1
        let objects = Objects(
            boxes: found, scores: found.map { _ in 1 }, classIds: found.map { _ in 0 }, trackIds: ids)
        let info = FrameInfo(size: Size(width: 640, height: 480), classes: ["arrow"], time: frame["time"].number)
        let poses = Poses(
            info: info, objects: objects, keypoints: keypoints(frame["keypoints"].flat, count),
            skeleton: Skeleton(names: (0..<count).map { "point \($0)" }))
        return .object(["keypoints": .numbers(try filter.smooth(poses).keypoints)])
    }
    return apart(one.expected, .object(["frames": .list(frames)]), ["keypoints": one.tolerance("keypoint")])
}

@Sendable private func oksNMS(_ one: Case) throws -> [String] {
    let sigmas = one.given["sigmas"].items.isEmpty ? try one.given["sigmas"].array(one.folder).data : one.given["sigmas"].flat
    let points = keypoints(try one.given["keypoints"].array(one.folder).data, sigmas.count)
    let scores = try one.given["scores"].tensor(one.folder).data
    let areas = try one.given["areas"].tensor(one.folder).data
    let kept = keypointSuppression(points, scores: scores, areas: areas, sigmas: sigmas, limit: one.given["limit"].number!)
    let similarity = keypointSimilarity(points, points, areas: areas, sigmas: sigmas)
    return apart(
        one.expected, .object(["kept": .numbers(kept), "similarity": .numbers(similarity)]), ["similarity": one.tolerance("similarity")])
}

@Sendable private func topDown(_ one: Case) async throws -> [String] {
    let contract = try Contract.read(one.given["contract"], "")
    let name = one.given["image"].string!
    let picture = try PNG.read([UInt8](Data(contentsOf: one.folder.appendingPathComponent(name))), name: name)
    let frame = try Frame(pixels: picture.data, width: picture.width, height: picture.height, format: .rgb)
    let (image, found) = (frame.upright, try boxes(one, "boxes"))
    let (margin, double) = (one.given["margin"].number!, one.given["double"].number!)
    let heads = try one.given["outputs"].items.map { try $0.items.map { try $0.tensor(one.folder) } }
    var tensors: [Float] = []
    var row = 0
    let (points, _) = try await posesIn(image, found, margin, openTask(contract), Preprocessor(contract.image)) { tensor in
        tensors += tensor.data
        row += 1
        return heads[row - 1]
    }
    let objects = Objects(
        boxes: found, scores: try one.given["scores"].tensor(one.folder).data,
        classIds: try one.given["class_ids"].array(one.folder).data.map { Int($0) })
    let size = Size(width: picture.width, height: picture.height)
    let poses = joined(FrameInfo(size: size, classes: ["person"]), objects, points, contract.skeleton!, double)
    let transforms = found.map { box -> Value in
        let one = Transform(around: box, margin: margin, contract.image, in: size)
        return .object([
            "scale_x": .numbers([one.scaleX]), "scale_y": .numbers([one.scaleY]), "offset_x": .numbers([one.offsetX]),
            "offset_y": .numbers([one.offsetY]),
        ])
    }
    guard case .object(var expected) = one.expected, let wanted = expected.removeValue(forKey: "tensors") else { return ["no object"] }
    let answered = Value.object([
        "transforms": transforms.isEmpty ? .numbers([Double]()) : .list(transforms), "boxes": .numbers(poses.objects.boxes),
        "scores": .numbers(poses.objects.scores), "class_ids": .numbers(poses.objects.classIds), "keypoints": .numbers(poses.keypoints),
    ])
    let places = ["scale_x": 1e-9, "scale_y": 1e-9, "offset_x": 1e-9, "offset_y": 1e-9]
    let limits = places.merging(["scores": one.tolerance("score"), "keypoints": one.tolerance("keypoint")]) { $1 }
    return apart(.object(expected), answered, limits) + levelsApart(one, wanted.numbers, tensors, contract.image)
}

@Sendable private func manifest(_ one: Case) throws -> [String] {
    let folder = one.folder.appendingPathComponent(one.given["manifest"].string!).deletingLastPathComponent()
    do {
        let found = try EdgeBundle(opening: folder).manifest
        var engines: [Value] = []
        for graph in found.graphs {
            let name = graph.engine ?? found.engine
            if !engines.contains(where: { $0.text == name }) { engines.append(.text(name)) }
        }
        let classes = found.contract.classes.map { Value.text($0) }
        return apart(
            one.expected,
            .object([
                "ok": .bool(true), "name": .text(found.name), "target": .text(found.target), "precision": .text(found.precision),
                "engines": .list(engines), "task": .text(found.contract.task),
                "classes": classes.isEmpty ? .numbers([Double]()) : .list(classes),
                "size": .numbers([found.contract.image.height, found.contract.image.width]), "proven": .bool(found.proven),
                "bytes": .numbers([found.files.reduce(0) { $0 + $1.bytes }]),
            ]))
    } catch EdgeKitError.bundle(let problem, _) {
        let alsoGood = one.tolerance["error"].items.compactMap(\.text)
        return alsoGood.contains(problem.rawValue) ? [] : apart(one.expected, error(problem.rawValue))
    }
}

private func strings(_ texts: [String]) -> Value { texts.isEmpty ? .numbers([Double]()) : .list(texts.map { .text($0) }) }

/// Texts, ids and pieces of a tokenizer file.
@Sendable private func tokenizer(_ one: Case) throws -> [String] {
    do {
        let found = try Tokenizer([UInt8](Data(contentsOf: one.folder.appendingPathComponent(one.given["tokenizer"].string!))))
        var answered: [String: Value] = [:]
        func ids(_ json: JSON) -> [Int] { json["ids"].flat.map { Int($0) } }
        if !one.given["texts"].isMissing {
            answered["texts"] = .list(try one.given["texts"].items.map { text in
                let ids = try found.encode(text.string!)
                return .object(["ids": .numbers(ids), "decoded": .text(found.decode(ids))])
            })
        }
        if !one.given["ids"].isMissing { answered["ids"] = .list(one.given["ids"].items.map { .object(["decoded": .text(found.decode(ids($0)))]) }) }
        if !one.given["streams"].isMissing {
            answered["pieces"] = .list(try one.given["streams"].items.map { stream in
                let stop = stream["stop"].items.map { $0.string! }
                let whole = cut(Array(found.decode(ids(stream)).utf8), stop.map { Array($0.utf8) })
                return .object(["pieces": strings(try pieces(found, ids(stream), stop)), "whole": .text(String(decoding: whole, as: UTF8.self))])
            })
        }
        return apart(one.expected, .object(answered))
    } catch EdgeKitError.bundle(_, _) {
        return apart(one.expected, error("bundle"))
    }
}

private func pieces(_ tokenizer: Tokenizer, _ ids: [Int], _ stop: [String]) throws -> [String] {
    var (decoder, cutter, found) = (tokenizer.pieces(), Cutter(stop), [String]())
    for id in ids where !cutter.ended { found.append(cutter.add(try decoder.add(id) ?? "")) }
    return (found + [cutter.rest]).filter { !$0.isEmpty }
}

/// A language model that is a table (states, vocabulary) of logits; the tokens of a row lead from state to state.
private final class TableGraph: LanguageGraph, @unchecked Sendable {
    private let table: Tensor
    private let begin: Int
    private var states: [Int] = []

    init(_ table: Tensor, _ begin: Int) { (self.table, self.begin) = (table, begin) }

    private var logits: Tensor {
        let vocabulary = table.shape[1]
        return Tensor(states.flatMap { table.data[$0 * vocabulary..<($0 + 1) * vocabulary] }, shape: [states.count, vocabulary])
    }

    func start(_ embeddings: Tensor) async -> Tensor {
        states = [begin]
        return logits
    }

    func step(_ tokens: [Int]) async -> Tensor {
        states = zip(states, tokens).map { (5 * $0 + $1 + 1) % table.shape[0] }
        return logits
    }

    func select(_ rows: [Int]) async { states = rows.map { states[$0] } }
}

@Sendable private func generation(_ one: Case) async throws -> [String] {
    let limits = ["scores": one.tolerance("scores"), "probabilities": one.tolerance("probabilities")]
    let given = one.given
    do {
        let options = try GenerationOptions.read(given["options"], "")
        if !given["draws"].isMissing {
            let likely = try chances(try given["scores"].tensor(one.folder).data, options)
            let tokens = given["draws"].flat.map { drawn(likely, $0) }
            return apart(one.expected, .object(["probabilities": .numbers(likely), "tokens": .numbers(tokens)]), limits)
        }
        let ids = given["prompt"].flat.map { Int($0) }
        let prompt = Prompt(
            embeddings: Tensor(ids.map { _ in 0 }, shape: [1, ids.count, 1]), ids: ids, eos: given["eos"].flat.map { Int($0) }, pad: Int(given["pad"].number!))
        let graph = TableGraph(try given["table"].tensor(one.folder), Int(given["start"].number!))
        let made = try await generate(graph, prompt, options)
        let sequences = made.map { Value.object(["tokens": .numbers($0.tokens)]) }
        return apart(one.expected, .object(["sequences": .list(sequences), "scores": .numbers(made.map(\.score))]), limits)
    } catch is Invalid {
        return apart(one.expected, error("usage"), limits)
    } catch EdgeKitError.usage(_) {
        return apart(one.expected, error("usage"), limits)
    } catch EdgeKitError.engine(_) {
        return apart(one.expected, error("engine"), limits)
    }
}
