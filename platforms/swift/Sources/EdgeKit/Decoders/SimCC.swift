/// SimCC, RTMPose: a keypoint as two classifications. Roles `x` (1, k, width * split) and `y` (1, k, height * split).
package struct SimCC: Decoder {
    package static let name = "simcc"
    package static let task = "pose"

    private let split: Double

    package init(_ options: Fields) throws {
        split = try options.read("split", Read.positive, or: 2)
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let (across, count, width) = try matrix(try heads.only("x"))
        let (down, rows, height) = try matrix(try heads.only("y"))
        for (bins, pixels) in [(width, frame.width), (height, frame.height)] {
            let wanted = (Double(pixels) * split).rounded(.toNearestOrEven)
            if Double(bins) != wanted { throw Misfit("\(bins) bins where \(wanted) are needed for split \(split)") }
        }
        if rows != count { throw Misfit("\(count) keypoints across, and \(rows) down") }
        var points: [Float] = []
        for k in 0..<count {
            let x = largest(across[k * width..<(k + 1) * width])
            let y = largest(down[k * height..<(k + 1) * height])
            let score = min(across[k * width + x], down[k * height + y])
            points += [
                pixelCentre + Float(x) / Float(split), pixelCentre + Float(y) / Float(split),
                score.isNaN ? score : score.clamped(0, 1),
            ]
        }
        return try onePerson(points, frame, above: threshold)
    }

    /// Place of the largest value, the first of equals; of a NaN where there is one.
    private func largest(_ values: ArraySlice<Float>) -> Int {
        var best = values.startIndex
        for i in values.indices where !values[best].isNaN && !(values[i] <= values[best]) { best = i }
        return best - values.startIndex
    }
}
