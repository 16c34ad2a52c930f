import EdgeKit
import EdgeKitCoreML
import XCTest

@testable import EdgeApp

/// The bundle as the app has it, on whatever runs these tests.
final class EdgeAppTests: XCTestCase {
    func testTheModelOpensAndRuns() async throws {
        let model = try await EdgeModel.open(EdgeApp.model, engine: CoreMLEngine())
        let frame = try Frame(pixels: [UInt8](repeating: 128, count: 3 * 64 * 48), width: 64, height: 48, format: .rgb)
        let result = try await model.run(frame)
        XCTAssertEqual(result.info.size, Size(width: 64, height: 48))
        XCTAssertGreaterThan(result.timings.inference, 0)
        await model.close()
    }

    func testTheGoldenFramesAgree() async throws {
        let model = try await EdgeModel.open(EdgeApp.model, engine: CoreMLEngine())
        try XCTSkipUnless(model.manifest.files.contains { $0.path == "golden/frames.json" }, "this bundle has no golden frames")
        let found = try await model.selfCheck()
        XCTAssertEqual(found.differences, [])
        await model.close()
    }

    func testAClosedModelRefuses() async throws {
        let model = try await EdgeModel.open(EdgeApp.model, engine: CoreMLEngine())
        await model.close()
        do {
            _ = try await model.selfCheck()
            XCTFail("a closed model ran")
        } catch EdgeKitError.closed {
        }
    }
}
