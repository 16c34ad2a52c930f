import Foundation
import Testing

@testable import EdgeKit
@testable import EdgeKitUI

/// What an app shows of results, and what it writes: all of EdgeKitUI that needs no system of Apple's.
struct UITests {
    private static let info = FrameInfo(size: Size(width: 100, height: 50), classes: ["cat", "dog"])

    private static func objects(_ scores: [Float], trackIds: [Int]? = nil) -> Objects {
        Objects(boxes: scores.indices.map { Box(Float(10 * $0), 5, Float(10 * $0 + 8), 25) }, scores: scores, classIds: scores.indices.map { $0 % 2 }, trackIds: trackIds)
    }

    @Test func figuresAreMediansOfTheLastFrames() throws {
        var hud = Hud()
        #expect(hud.prepare == nil && hud.framesPerSecond == nil)
        for number in 0..<200 {
            let slow = number < 140 ? 1000.0 : 0
            hud.add(Timings(pre: slow + Double(number % 3), inference: 7, post: 0.5), at: Double(number) / 20)
        }
        #expect(hud.prepare == 1 && hud.infer == 7 && hud.decode == 0.5)
        #expect(abs(try #require(hud.framesPerSecond) - 20) < 1e-9)
    }

    /// The orientation of a mirrored front camera as Apple lists it for Vision, against turning and mirroring pixels.
    @Test func camerasAreTurnedAndMirroredAsAppleSays() throws {
        let mirrored: [CameraTurn.Screen: Orientation] = [
            .portrait: .leftMirrored, .portraitUpsideDown: .rightMirrored, .landscapeRight: .downMirrored, .landscapeLeft: .upMirrored,
        ]
        let back: [CameraTurn.Screen: Orientation] = [.portrait: .right, .portraitUpsideDown: .left, .landscapeRight: .up, .landscapeLeft: .down]
        let pixels = (0..<18).map { UInt8($0) }
        func upright(_ orientation: Orientation, mirrored: Bool) throws -> [UInt8] {
            try Frame(pixels: pixels, width: 3, height: 2, format: .rgb, orientation: orientation, mirrored: mirrored).upright.data
        }
        for screen in CameraTurn.Screen.allCases {
            let (front, rear) = (CameraTurn(.front, held: screen), CameraTurn(.back, held: screen))
            #expect(front.isMirrored && !rear.isMirrored)
            #expect(rear.orientation == back[screen])
            #expect(try upright(front.orientation, mirrored: true) == upright(mirrored[screen]!, mirrored: false), "\(screen)")
            #expect(try upright(front.orientation, mirrored: false) != upright(mirrored[screen]!, mirrored: false), "\(screen)")
        }
    }

    @Test func aFrameIsShownWholeInTheMiddle() {
        let tall = Fitting(Size(width: 100, height: 50), inWidth: 300, height: 400)
        #expect(tall.scale == 3 && tall.left == 0 && tall.top == 125)
        #expect(tall.x(50) == 150 && tall.y(25) == 200)
        let wide = Fitting(Size(width: 100, height: 50), inWidth: 300, height: 100)
        #expect(wide.scale == 2 && wide.left == 50 && wide.top == 0)
        #expect(Fitting(Size(width: 0, height: 0), inWidth: 10, height: 10).scale == 0)
    }

    @Test func objectsBelowTheScoreAreNeitherDrawnNorListed() {
        let result = EdgeResult.detections(Detections(info: UITests.info, objects: UITests.objects([0.9, 0.5, 0.3])))
        let overlay = Overlay(result, from: 0.5)
        #expect(overlay.size == Size(width: 100, height: 50) && overlay.items.map(\.caption) == ["cat", "dog"])
        #expect(overlay.items[1].outline == [.init(10, 5), .init(18, 5), .init(18, 25), .init(10, 25)])
        #expect(result.lines(from: 0.5).map(\.figure) == ["0.90", "0.50"])
        #expect(result.sentence(from: 0.2) == "3 found: 2 cat, 1 dog." && result.sentence(from: 0.95) == "Nothing found: try a lower least score.")
        #expect(overlay.items[0].colour != overlay.items[1].colour)
    }

    @Test func aTrackKeepsItsNumberAndColour() {
        func first(_ classId: Int) -> Overlay.Item {
            var objects = UITests.objects([0.9], trackIds: [7])
            objects.classIds = [classId]
            return Overlay(.detections(Detections(info: UITests.info, objects: objects)), from: 0).items[0]
        }
        #expect(first(0).caption == "cat #7" && first(1).caption == "dog #7" && first(0).colour == first(1).colour)
        #expect(first(9).caption == "class 9 #7")
        // hsl(168 85% 58%) of the web app.
        let colour = Colour(number: 0)
        #expect(abs(colour.red - 0.223) < 1e-9 && abs(colour.green - 0.937) < 1e-9 && abs(colour.blue - 0.7942) < 1e-9)
    }

    @Test func skeletonsLeaveOutWhatIsUnsure() {
        let skeleton = Skeleton(names: ["a", "b", "c"], edges: [[0, 1], [1, 2]])
        let points = [Keypoint(x: 1, y: 2, score: 0.9), Keypoint(x: 3, y: 4, score: 0.31), Keypoint(x: 5, y: 6, score: 0.1)]
        let item = Overlay(.poses(Poses(info: UITests.info, objects: UITests.objects([0.9]), keypoints: [points], skeleton: skeleton)), from: 0).items[0]
        #expect(item.keypoints == [.init(1, 2), .init(3, 4)] && item.bones.map(\.to) == [.init(3, 4)])
    }

    @Test func masksLabelMapsAndTurnedBoxesAreDrawnWhereTheyAre() {
        let mask = Mask(left: 4, top: 6, width: 2, height: 1, data: [0, 1])
        let instances = EdgeResult.instances(Instances(info: UITests.info, objects: UITests.objects([0.9]), masks: [mask]))
        let painted = Overlay(instances, from: 0).bitmaps[0]
        #expect(painted.left == 4 && painted.top == 6 && painted.pixels.prefix(4) == [0, 0, 0, 0] && painted.pixels[7] == 128)
        #expect(Overlay(instances, from: 1).bitmaps.isEmpty)
        let map = EdgeResult.labels(LabelMap(info: FrameInfo(size: Size(width: 3, height: 1), classes: ["__background__", "road"]), labels: [0, 1, 1]))
        let whole = Overlay(map, from: 0).bitmaps[0]
        #expect(whole.pixels[3] == 0 && whole.pixels[7] == 153 && whole.pixels[4..<8] == whole.pixels[8..<12])
        #expect(map.lines(from: 0).map(\.name) == ["road", "__background__"] && map.sentence(from: 0) == "Found: road 66.7 %, __background__ 33.3 %.")
        let turned = OrientedBox(x: 50, y: 25, width: 20, height: 10, angle: .pi / 2)
        let oriented = Overlay(.oriented(OrientedBoxes(info: UITests.info, objects: UITests.objects([0.9]), oriented: [turned])), from: 0)
        for (found, wanted) in zip(oriented.items[0].outline, [(55, 15), (55, 35), (45, 35), (45, 15)] as [(Float, Float)]) {
            #expect(abs(found.x - wanted.0) < 1e-4 && abs(found.y - wanted.1) < 1e-4)
        }
    }

    @Test func classesAreListedByScore() {
        let found = EdgeResult.classification(Classification(info: UITests.info, scores: [0.2, 0.8], isMultiLabel: false, threshold: 0.5))
        #expect(found.lines(from: 0.9).map { "\($0.name) \($0.figure)" } == ["dog 80.0 %", "cat 20.0 %"])
        #expect(Overlay(found, from: 0).items.isEmpty)
        let vector = EdgeResult.embedding(Embedding(info: UITests.info, vector: [1, 0]))
        #expect(vector.sentence(from: 0) == "Found: vector 2 numbers.")
    }

    @Test func problemsHaveATitleAndSayWhatToDo() {
        #expect(Problem(EdgeKitError.bundle(.hashDiffers, "x")).title == "A file of the model is damaged")
        #expect(Problem(EdgeKitError.bundle(.newerSchema, "x")).title == "This model needs a newer edgekit")
        #expect(Problem(EdgeKitError.input("the camera is not allowed; allow it")).title == "The camera cannot be used")
        let other = Problem(EdgeKitError.input("not a picture"))
        #expect(other.title == "This picture cannot be used" && other.text == "not a picture")
        #expect(Problem(CancellationError()).title == "Something went wrong")
    }

    @Test func aBenchmarkHasEverySampleOfModelsThatItOpensAndCloses() async throws {
        let folder = try writeBundle()
        defer { try? FileManager.default.removeItem(at: folder) }
        let engine = Fake(milliseconds: 1)
        var length = Benchmark.Length()
        (length.seconds, length.calls) = (0.05, 12...400)
        let told = Mutex<[Int]>([])
        let frame = try Frame(pixels: [UInt8](repeating: 0, count: 3 * 64 * 32), width: 64, height: 32, format: .rgb)
        let device = Device(model: "iPhone17,1", system: "iOS 18.5", cores: 6, memory: 8 << 30)
        let found = try await Benchmark.run(frame, on: device, length: length, tell: { number in told.withLock { $0.append(number) } }) {
            try await EdgeModel.open(folder, engine: engine)
        }
        #expect(told.withLock { $0 } == [1, 2, 3])
        #expect(engine.opened.withLock { $0 } == 3 && engine.closed.withLock { $0 } == 3)
        for round in found.rounds {
            #expect(round.total.count >= 12 && round.pre.count == round.total.count && round.post.count == round.total.count)
            #expect(round.open > 0 && round.first >= 1)
            #expect(zip(round.total, round.inference).allSatisfy { $0 >= $1 && $1 >= 1 })
        }
        #expect(found.frame == [64, 32] && found.bundle.name == "tiny" && found.device == "cpu" && found.cores == 6)
        #expect(found.id.count == 32 && found.id.allSatisfy(\.isHexDigit))
        // For edgekit profile import, where a test of edgekit gave a folder.
        if let place = ProcessInfo.processInfo.environment["EDGEKIT_SWIFT_BUNDLES"], !place.isEmpty {
            try found.json.write(to: URL(fileURLWithPath: place).appendingPathComponent("app-benchmark.json"))
        }
        await #expect(throws: EdgeKitError.self) {
            try await Benchmark.run(frame, length: length) { try await EdgeModel.open(folder, engine: Fake(logit: .nan)) }
        }
        #expect(Device.current.cores > 0 && Device.current.memory > 0 && !Device.current.model.isEmpty)
    }

    @Test func aSelfCheckIsToldInASentence() {
        func check(_ differences: [String], _ compared: String) -> SelfCheck {
            SelfCheck(
                bundle: "b", files: "f", time: "t", edgekit: "e", machine: "m", engine: "x", frames: 2, compared: compared, agreed: differences.isEmpty,
                differences: differences)
        }
        #expect(check([], "bundle").sentence == "All 2 golden frames agree with what it found when it was converted.")
        #expect(check(["a", "b", "c", "d"], "source").sentence == "The golden frames do not agree with what its source found: a; b; c.")
    }
}
