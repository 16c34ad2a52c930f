import EdgeKitONNX
import Foundation
import Testing

@testable import EdgeKit

/// Converted bundles with ONNX Runtime, against what Python found with the same files. See tests/test_platform_swift.py.
struct BundleTests {
    private static let folder = ProcessInfo.processInfo.environment["EDGEKIT_SWIFT_BUNDLES"].flatMap { $0.isEmpty ? nil : $0 }

    /// The engines are of different versions: sums are ordered differently.
    private static let pixel = 0.05
    private static let score = 1e-4
    /// A resize may be a grey level off in a few pixels, as the golden set allows, and a softmax makes much of little.
    private static let probability = 5e-4

    @Test(.enabled(if: folder != nil, "EDGEKIT_SWIFT_BUNDLES names no folder of bundles"))
    func resultsTracksAndGoldenFramesArePythons() async throws {
        let data = try Data(contentsOf: URL(fileURLWithPath: BundleTests.folder!).appendingPathComponent("expected.json"))
        let entries = try JSON(parsing: Array(data)).items
        #expect(!entries.isEmpty)
        for entry in entries { try await check(entry) }
    }

    private func check(_ entry: JSON) async throws {
        let folder = URL(fileURLWithPath: entry["bundle"].string!)
        let name = folder.lastPathComponent
        let model = try await EdgeModel.open(folder, engine: ONNXRuntime(threads: 1))
        #expect(model.placement.unit == "cpu" && model.placement.engine.hasPrefix("onnxruntime 1."))
        var objects = 0
        for one in entry["images"].items {
            let found = try await model.run(try picture(one["image"].string!))
            same(found, one["result"], "\(name) \(one["image"].string!)")
            objects += found.objects?.count ?? 1
        }
        #expect(objects > 0)
        try await follow(model, entry["frames"], folder)
        if entry["golden"].flag {
            let record = try await model.selfCheck()
            #expect(record.agreed && record.differences.isEmpty && record.frames > 0)
            try record.json.write(to: URL(fileURLWithPath: folder.path + "-record.json"))
        }
        let stopped = Task { try await model.run(try picture(entry["images"].items[0]["image"].string!)) }
        stopped.cancel()
        do { _ = try await stopped.value } catch { #expect(error is CancellationError) }
        await model.close()
        await #expect(throws: EdgeKitError.self) { _ = try await model.run(try picture(entry["images"].items[0]["image"].string!)) }
    }

    private func follow(_ model: EdgeModel, _ frames: JSON, _ folder: URL) async throws {
        if frames.isMissing { return }
        var ids: [[Int]] = []
        var options = ByteTrackOptions()
        (options.newScore, options.highScore) = (0.3, 0.25)
        let paths = frames.items.map { $0["image"].string! }
        // One frame after the other: the next is given when the result of the last was taken.
        let (stream, source) = AsyncStream<Frame>.makeStream()
        source.yield(try picture(paths[0], time: 0))
        for try await found in model.results(of: stream, tracking: try .byteTrack(options)) {
            ids.append(found.objects!.trackIds!)
            try document(found).write(to: URL(fileURLWithPath: folder.path + "-found.json"))
            if ids.count < paths.count { source.yield(try picture(paths[ids.count], time: Double(ids.count) / 30)) } else { source.finish() }
        }
        #expect(ids == frames.items.map { $0["track_ids"].flat.map { Int($0) } }, "\(folder.lastPathComponent): track ids")
    }

    /// What was found, as docs/platforms_picture.py draws it.
    private func document(_ found: EdgeResult) throws -> Data {
        let objects = found.objects!
        var columns: [String: Any] = [
            "boxes": objects.boxes.flatMap { [$0.x1, $0.y1, $0.x2, $0.y2].map(Double.init) },
            "scores": objects.scores.map(Double.init), "class_ids": objects.classIds, "track_ids": objects.trackIds!,
            "keypoints": [Double](), "masks": [String](),
        ]
        if case .poses(let one) = found { columns["keypoints"] = one.keypoints.joined().flatMap { [$0.x, $0.y, $0.score].map(Double.init) } }
        if case .instances(let one) = found { columns["masks"] = one.masks.map { $0.rle(in: found.info.size).counts } }
        return try JSONSerialization.data(withJSONObject: columns)
    }

    private func picture(_ path: String, time: Double? = nil) throws -> Frame {
        let pixels = try PNG.read([UInt8](Data(contentsOf: URL(fileURLWithPath: path))), name: path)
        return try Frame(pixels: pixels.data, width: pixels.width, height: pixels.height, format: .rgb, time: time)
    }

    private func off(_ one: [Double], _ other: [Double]) -> Double {
        one.count == other.count ? zip(one, other).map { abs($0 - $1) }.max() ?? 0 : .infinity
    }

    private func same(_ found: EdgeResult, _ expected: JSON, _ place: String) {
        switch found {
        case .classification(let one):
            #expect(off(one.scores.map(Double.init), expected["scores"].flat) < BundleTests.probability, "\(place)")
            return
        case .embedding(let one):
            #expect(off(one.vector.map(Double.init), expected["vector"].flat) < BundleTests.score, "\(place)")
            return
        case .labels(let one):
            let labels = zip(expected["class_ids"].flat, expected["lengths"].flat).flatMap { Array(repeating: $0, count: Int($1)) }
            let differing = zip(labels, one.labels).filter { $0 != Double($1) }.count
            #expect(labels.count == one.labels.count && differing <= labels.count / 1000, "\(place): \(differing) pixels")
            return
        default: break
        }
        let (objects, rows) = (found.objects!, expected["detections"].items)
        #expect(objects.classIds == rows.map { Int($0["class_id"].number!) }, "\(place)")
        #expect(off(objects.scores.map(Double.init), rows.map { $0["score"].number! }) < BundleTests.score, "\(place)")
        let boxes = objects.boxes.flatMap { [$0.x1, $0.y1, $0.x2, $0.y2].map(Double.init) }
        #expect(off(boxes, rows.flatMap { $0["box"].flat }) < BundleTests.pixel, "\(place)")
        switch found {
        case .poses(let one):
            let points = one.keypoints.joined().flatMap { [$0.x, $0.y, $0.score].map(Double.init) }
            #expect(off(points, rows.flatMap { $0["keypoints"].flat }) < BundleTests.pixel, "\(place)")
        case .oriented(let one):
            let turned = one.oriented.flatMap { [$0.x, $0.y, $0.width, $0.height, $0.angle].map(Double.init) }
            #expect(off(turned, rows.flatMap { $0["oriented"].flat }) < BundleTests.pixel, "\(place)")
        case .instances(let one):
            let equal = zip(one.masks, rows).filter { $0.rle(in: found.info.size).counts == $1["mask"]["counts"].string }.count
            #expect(Double(equal) >= Double(rows.count) * 0.8, "\(place): \(equal) of \(rows.count) masks are equal")
        default: break
        }
    }
}
