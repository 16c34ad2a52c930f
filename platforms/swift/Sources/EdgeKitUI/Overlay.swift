import EdgeKit
import Foundation

/// What is drawn over a frame, in its pixels: outlines, skeletons, masks and captions of one result.
public struct Overlay: Sendable, Hashable {
    public struct Point: Sendable, Hashable {
        public let x: Float
        public let y: Float

        public init(_ x: Float, _ y: Float) { (self.x, self.y) = (x, y) }
    }

    public struct Line: Sendable, Hashable {
        public let from: Point
        public let to: Point
    }

    /// One object.
    public struct Item: Sendable, Hashable {
        /// A closed line: the corners of a box, upright or not.
        public let outline: [Point]
        public let keypoints: [Point]
        public let bones: [Line]
        public let colour: Colour
        public let caption: String
        public let score: Float
    }

    /// Pixels to lay over the frame, RGBA with straight alpha: a mask in its window, or a whole label map.
    public struct Bitmap: Sendable, Hashable {
        public let left: Int
        public let top: Int
        public let width: Int
        public let height: Int
        public let pixels: [UInt8]
    }

    /// Of the frame.
    public let size: Size
    public let items: [Item]
    public let bitmaps: [Bitmap]

    /// A keypoint of which the model is less sure is not drawn.
    static let leastKeypoint: Float = 0.3

    /// - Parameter score: Objects below it are left out.
    public init(_ result: EdgeResult, from score: Double) {
        size = result.info.size
        let rows = result.rows(from: score)
        let names = result.info.classes
        guard let objects = result.objects else {
            items = []
            if case .labels(let map) = result { bitmaps = [Overlay.painted(map)] } else { bitmaps = [] }
            return
        }
        items = rows.map { row in
            var (keypoints, bones): ([Point], [Line]) = ([], [])
            if case .poses(let poses) = result { (keypoints, bones) = Overlay.pose(poses.keypoints[row], poses.skeleton) }
            return Item(
                outline: Overlay.outline(result, row), keypoints: keypoints, bones: bones, colour: objects.colour(row),
                caption: objects.caption(row, names), score: objects.scores[row])
        }
        if case .instances(let found) = result {
            bitmaps = rows.map { Overlay.painted(found.masks[$0], objects.colour($0).with(alpha: 0.5)) }
        } else {
            bitmaps = []
        }
    }

    private static func outline(_ result: EdgeResult, _ row: Int) -> [Point] {
        guard case .oriented(let found) = result else {
            let box = result.objects!.boxes[row]
            return [Point(box.x1, box.y1), Point(box.x2, box.y1), Point(box.x2, box.y2), Point(box.x1, box.y2)]
        }
        let box = found.oriented[row]
        let (cos, sin) = (cosf(box.angle), sinf(box.angle))
        return [(-1, -1), (1, -1), (1, 1), (-1, 1)].map { (a: Float, b: Float) in
            Point(box.x + (a * cos * box.width - b * sin * box.height) / 2, box.y + (a * sin * box.width + b * cos * box.height) / 2)
        }
    }

    private static func pose(_ keypoints: [Keypoint], _ skeleton: Skeleton) -> ([Point], [Line]) {
        let seen = keypoints.map { $0.score >= leastKeypoint ? Point($0.x, $0.y) : nil }
        let bones: [Line] = skeleton.edges.compactMap { edge in
            guard let from = seen[edge[0]], let to = seen[edge[1]] else { return nil }
            return Line(from: from, to: to)
        }
        return (seen.compactMap { $0 }, bones)
    }

    private static func painted(_ mask: Mask, _ colour: Colour) -> Bitmap {
        let pixel = colour.bytes
        var pixels = [UInt8](repeating: 0, count: 4 * mask.data.count)
        for (i, inside) in mask.data.enumerated() where inside != 0 { pixels.replaceSubrange(4 * i..<4 * i + 4, with: pixel) }
        return Bitmap(left: mask.left, top: mask.top, width: mask.width, height: mask.height, pixels: pixels)
    }

    private static func painted(_ map: LabelMap) -> Bitmap {
        let palette = map.info.classes.enumerated().map { id, name in isNothing(name) ? [0, 0, 0, 0] : Colour(number: id).with(alpha: 0.6).bytes }
        var pixels: [UInt8] = []
        pixels.reserveCapacity(4 * map.labels.count)
        for label in map.labels { pixels += Int(label) < palette.count ? palette[Int(label)] : Colour(number: Int(label)).with(alpha: 0.6).bytes }
        return Bitmap(left: 0, top: 0, width: map.info.size.width, height: map.info.size.height, pixels: pixels)
    }

    /// Classes that are nothing in particular are not painted.
    private static func isNothing(_ name: String) -> Bool {
        ["background", "void", "unlabeled", "unlabelled"].contains(name.lowercased().trimmingCharacters(in: CharacterSet(charactersIn: "_")))
    }
}

/// A colour of sRGB, each part 0...1.
public struct Colour: Sendable, Hashable {
    public let red: Double
    public let green: Double
    public let blue: Double
    public let alpha: Double

    /// The colour of a class or a track: neighbours are far apart on the wheel. The same as in the web app.
    public init(number: Int) {
        let hue = (168 + Double(number) * 137.508).truncatingRemainder(dividingBy: 360) / 30
        let (saturation, lightness) = (0.85, 0.58)
        let reach = saturation * min(lightness, 1 - lightness)
        func part(_ offset: Double) -> Double {
            let k = (offset + hue).truncatingRemainder(dividingBy: 12)
            return lightness - reach * max(-1, min(k - 3, 9 - k, 1))
        }
        self.init(part(0), part(8), part(4), 1)
    }

    private init(_ red: Double, _ green: Double, _ blue: Double, _ alpha: Double) {
        (self.red, self.green, self.blue, self.alpha) = (red, green, blue, alpha)
    }

    public func with(alpha: Double) -> Colour { Colour(red, green, blue, alpha) }

    var bytes: [UInt8] { [red, green, blue, alpha].map { UInt8(($0 * 255).rounded()) } }
}

extension Objects {
    /// A track keeps its colour, whatever it is taken for.
    fileprivate func colour(_ row: Int) -> Colour { Colour(number: trackIds?[row] ?? classIds[row]) }

    func caption(_ row: Int, _ names: [String]) -> String {
        let name = names.name(classIds[row])
        return trackIds.map { "\(name) #\($0[row])" } ?? name
    }
}

extension [String] {
    func name(_ id: Int) -> String { indices.contains(id) ? self[id] : "class \(id)" }
}

extension EdgeResult {
    /// Rows of the objects that score at least so much.
    func rows(from score: Double) -> [Int] {
        guard let objects else { return [] }
        return objects.scores.indices.filter { Double(objects.scores[$0]) >= score }
    }
}
