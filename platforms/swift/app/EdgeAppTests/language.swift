import EdgeKit
import EdgeKitONNX
import XCTest

@testable import EdgeApp

/// The bundle as the app has it, on whatever runs these tests.
final class EdgeAppTests: XCTestCase {
    func testTheModelOpensAndSpeaks() async throws {
        let model = try await VisionLanguage.open(EdgeApp.model, engine: ONNXRuntime())
        let frame = try Frame(pixels: [UInt8](repeating: 128, count: 3 * 64 * 48), width: 64, height: 48, format: .rgb)
        switch model.kind {
        case .generation:
            var options = GenerationOptions()
            options.maxNewTokens = 4
            let found = try await model.caption(frame, options: options)
            XCTAssertTrue((1...4).contains(found.tokens.count))
        case .retrieval:
            let found = try await model.match(frame, "a red circle")
            XCTAssertTrue((0...1).contains(found.probability))
        }
        await model.close()
    }

    func testAClosedModelRefuses() async throws {
        let model = try await VisionLanguage.open(EdgeApp.model, engine: ONNXRuntime())
        await model.close()
        do {
            let frame = try Frame(pixels: [UInt8](repeating: 128, count: 3 * 64 * 48), width: 64, height: 48, format: .rgb)
            try await model.embed(image: frame)
            XCTFail("a closed model ran")
        } catch EdgeKitError.closed {
        }
    }
}
