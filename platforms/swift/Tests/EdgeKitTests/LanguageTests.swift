import EdgeKitONNX
import Foundation
import Testing

@testable import EdgeKit

/// Converted BLIP-2 with ONNX Runtime, against what Python said with the same files. See tests/test_platform_swift.py.
struct LanguageTests {
    private static let folder = ProcessInfo.processInfo.environment["EDGEKIT_SWIFT_BUNDLES"].flatMap { folder -> String? in
        FileManager.default.fileExists(atPath: folder + "/language.json") ? folder : nil
    }

    @Test(.enabled(if: folder != nil, "EDGEKIT_SWIFT_BUNDLES names no folder with BLIP-2 bundles"))
    func textsPiecesAndMatchesArePythons() async throws {
        let data = try Data(contentsOf: URL(fileURLWithPath: LanguageTests.folder! + "/language.json"))
        let entries = try JSON(parsing: Array(data)).items
        #expect(!entries.isEmpty)
        for entry in entries { try await check(entry) }
    }

    private func check(_ entry: JSON) async throws {
        let folder = URL(fileURLWithPath: entry["bundle"].string!)
        let (name, limit) = (folder.lastPathComponent, entry["score"].number!)
        let model = try await VisionLanguage.open(folder, engine: ONNXRuntime(threads: 1))
        for one in entry["texts"].items {
            let options = try GenerationOptions.read(one["options"], "")
            let image = try picture(one["image"].string!)
            let made = one["question"].isMissing
                ? try await model.caption(image, options: options) : try await model.ask(image, one["question"].string!, options: options)
            #expect(made.text == one["text"].string!, "\(name)")
            #expect(made.tokens == one["tokens"].flat.map { Int($0) }, "\(name)")
            #expect(made.others.map(\.tokens) == one["others"].items.map { $0.flat.map { Int($0) } }, "\(name)")
            #expect(abs(Double(made.score) - one["score"].number!) < limit, "\(name): \(made.score)")
            if options.beams > 1 { continue }
            var pieces: [String] = []
            for try await piece in model.stream(image, question: one["question"].string, options: options) { pieces.append(piece) }
            #expect(pieces.joined().trimmingCharacters(in: .whitespaces) == one["text"].string!, "\(name)")
            #expect(pieces.count > 1 || !one["question"].isMissing)
        }
        for one in entry["matches"].items {
            let made = try await model.match(try picture(one["image"].string!), one["text"].string!)
            #expect(abs(made.probability - one["probability"].number!) < limit && abs(made.similarity - one["similarity"].number!) < limit, "\(name): \(made)")
        }
        await model.close()
        await #expect(throws: EdgeKitError.self) { _ = try await model.embed(text: "a") }
        await #expect(throws: EdgeKitError.self) { _ = try await EdgeModel.open(folder, engine: ONNXRuntime()) }
    }

    private func picture(_ path: String) throws -> Frame {
        let pixels = try PNG.read([UInt8](Data(contentsOf: URL(fileURLWithPath: path))), name: path)
        return try Frame(pixels: pixels.data, width: pixels.width, height: pixels.height, format: .rgb)
    }
}
