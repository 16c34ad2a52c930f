import Foundation
import Testing

@testable import EdgeKit

/// Damaged input is refused by an error, and never ends the app: Swift's own checks would.
struct HostileTests {
    /// The same numbers in every run.
    private struct Dice: RandomNumberGenerator {
        var state: UInt64 = 1
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state ^ (state >> 29)
        }
    }

    /// A copy with some bytes changed, or cut off.
    private func damaged(_ bytes: [UInt8], _ dice: inout Dice) -> [UInt8] {
        var bytes = bytes
        for _ in 0..<Int.random(in: 1...4, using: &dice) { bytes[Int.random(in: bytes.indices, using: &dice)] = UInt8.random(in: 0...255, using: &dice) }
        return Bool.random(using: &dice) ? bytes : Array(bytes.prefix(Int.random(in: 0...bytes.count, using: &dice)))
    }

    @Test func manifests() throws {
        let place = root.appendingPathComponent("golden/manifest/good-full")
        let files = FileManager.default.enumerator(at: place, includingPropertiesForKeys: nil)!.compactMap { $0 as? URL }
        let good = [UInt8](try Data(contentsOf: try #require(files.first { $0.lastPathComponent == "manifest.json" })))
        _ = try ManifestFile.decode(good, origin: "good")
        var dice = Dice()
        for _ in 0..<300 {
            let bad = damaged(good, &dice)
            if bad == good { continue }
            #expect(throws: EdgeKitError.self) { try ManifestFile.decode(bad, origin: "bad") }
        }
    }

    @Test func pictures() throws {
        let place = root.appendingPathComponent("golden/preprocess/letterbox-37x53/image.png")
        let good = [UInt8](try Data(contentsOf: place))
        let picture = try PNG.read(good, name: "good")
        #expect(picture.data.count == 3 * picture.width * picture.height)
        var dice = Dice()
        for _ in 0..<300 {
            do { _ = try PNG.read(damaged(good, &dice), name: "bad") } catch { #expect(error is EdgeKitError) }
        }
    }

    @Test func masks() {
        var dice = Dice()
        for _ in 0..<2000 {
            let letters = (0..<Int.random(in: 0...30, using: &dice)).map { _ in UInt8.random(in: 40...120, using: &dice) }
            let rle = RLE(size: Size(width: 5, height: 7), counts: String(decoding: letters, as: UTF8.self))
            do { _ = try rle.mask() } catch { #expect(error is EdgeKitError) }
        }
        #expect(throws: EdgeKitError.self) { try RLE(size: Size(width: .max, height: 2), counts: "0").mask() }
    }

    @Test func filesOfOtherFormats() throws {
        var dice = Dice()
        let words = Array("location".utf8)
        for _ in 0..<500 {
            let bytes = words + (0..<200).map { _ in UInt8.random(in: 0...255, using: &dice) }
            do { _ = try bytes.withUnsafeBytes { try ONNXFile.named(in: $0) } } catch { #expect(error is ONNXFile.Broken) }
        }
    }

    /// Outputs of every shape with a few dimensions, for every contract of the golden set.
    @Test func outputs() throws {
        var dice = Dice()
        let sizes = [0, 1, 2, 3, 4, 5, 8, 17]
        var tried = 0
        for one in try Case.stored("decode") {
            guard let task = try? openTask(try Contract.read(one.given["contract"], "")) else { continue }
            let rule = try ImageRule.read(one.given["contract"]["image"], "")
            let mapping = Transform(rule, width: 33, height: 21)
            for _ in 0..<10 {
                let outputs = one.given["outputs"].items.map { _ in
                    let shape = (0..<Int.random(in: 0...4, using: &dice)).map { _ in sizes.randomElement(using: &dice)! }
                    return Tensor([Float](repeating: 3, count: shape.reduce(1, *)), shape: shape)
                }
                do { _ = try task.result(outputs, mapping, Thresholds(score: -0.5)) } catch { #expect(error is EdgeKitError) }
                tried += 1
            }
        }
        #expect(tried > 500)
    }
}
