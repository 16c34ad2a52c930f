/// Keypoints of one person that the graph decoded itself: role `predictions` (..., k, 3). MoveNet as published: yxs.
package struct Keypoints: Decoder {
    package static let name = "keypoints"
    package static let task = "pose"

    private let isXY: Bool
    private let isNormalized: Bool

    package init(_ options: Fields) throws {
        isXY = try options.read("order", Read.word("xys", "yxs"), or: "xys") == "xys"
        isNormalized = try options.read("normalized", Read.bool, or: true)
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let (data, rows, columns) = try matrix(try heads.only("predictions"))
        if columns != 3 { throw Misfit("\(columns) values for each keypoint, but 3 are needed") }
        let (width, height) = isNormalized ? (Float(frame.width), Float(frame.height)) : (1, 1)
        let points = (0..<rows).flatMap { row in
            let (first, second) = (data[3 * row], data[3 * row + 1])
            return [(isXY ? first : second) * width, (isXY ? second : first) * height, data[3 * row + 2]]
        }
        return try onePerson(points, frame, above: threshold)
    }
}
