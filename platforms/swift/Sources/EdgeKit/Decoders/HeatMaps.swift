import Foundation

/// Heatmaps of keypoints (SimpleBaselines, HRNet, ViTPose): the peak's place, refined between cells, and its height as score.
package struct HeatMaps: Decoder {
    package static let name = "heatmaps"
    package static let task = "pose"

    private enum Refine: String, CaseIterable { case none, quarter, dark }

    private let refine: Refine
    private let kernel: Int
    private let isAligned: Bool

    package init(_ options: Fields) throws {
        refine = try options.read("refine", Read.word(), or: .quarter)
        kernel = try options.read("kernel", Read.int(from: 1, to: 255), or: 11)
        isAligned = try options.read("aligned", Read.bool, or: false)
    }

    /// One keypoint's map.
    private struct HeatMap {
        let data: ArraySlice<Float>
        let rows: Int
        let columns: Int

        subscript(x: Int, y: Int) -> Float { data[data.startIndex + y * columns + x] }
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let head = try heads.only("heatmaps")
        try Grid.checkPlanes(head)
        let (count, rows, columns) = (head.shape[1], head.shape[2], head.shape[3])
        try checkFinite(head.data)
        if refine == .dark && kernel % 2 == 0 { throw Misfit("kernel must be odd, not \(kernel)") }
        let blur = gaussian(kernel)
        var points: [Float] = []
        for k in 0..<count {
            let map = HeatMap(data: head.data[k * rows * columns..<(k + 1) * rows * columns], rows: rows, columns: columns)
            var peak = map.data.startIndex
            for i in map.data.indices where map.data[i] > map.data[peak] { peak = i }
            let (x, y) = ((peak - map.data.startIndex) % columns, (peak - map.data.startIndex) / columns)
            let (right, down): (Float, Float) =
                switch refine {
                case .none: (0, 0)
                case .quarter: quarter(map, x, y)
                case .dark: dark(map, x, y, blur)
                }
            points += [
                pixelCentre + placed(Float(x) + right, frame.width, columns),
                pixelCentre + placed(Float(y) + down, frame.height, rows),
                map.data[peak].clamped(0, 1),
            ]
        }
        return try onePerson(points, frame, above: threshold)
    }

    private func placed(_ place: Float, _ size: Int, _ cells: Int) -> Float {
        isAligned ? place * Float(size - 1) / Float(cells - 1) : place * (Float(size) / Float(cells))
    }

    /// A quarter of a cell towards the higher neighbour; nothing at the border.
    private func quarter(_ map: HeatMap, _ x: Int, _ y: Int) -> (Float, Float) {
        guard x > 0 && x < map.columns - 1 && y > 0 && y < map.rows - 1 else { return (0, 0) }
        func sign(_ value: Float) -> Float { value > 0 ? 1 : value < 0 ? -1 : 0 }
        return (0.25 * sign(map[x + 1, y] - map[x - 1, y]), 0.25 * sign(map[x, y + 1] - map[x, y - 1]))
    }

    /// One Newton step on the logarithm of the blurred heatmap (DARK, Zhang et al. 2020): exact for a Gaussian.
    private func dark(_ map: HeatMap, _ x: Int, _ y: Int, _ blur: [Float]) -> (Float, Float) {
        guard x >= 2 && x < map.columns - 2 && y >= 2 && y < map.rows - 2 else { return (0, 0) }
        let at = window(map, x, y, blur)
        func w(_ row: Int, _ column: Int) -> Double { at[5 * row + column] }
        let slope = (0.5 * (w(2, 3) - w(2, 1)), 0.5 * (w(3, 2) - w(1, 2)))
        let xx = 0.25 * (w(2, 4) - 2 * w(2, 2) + w(2, 0))
        let yy = 0.25 * (w(4, 2) - 2 * w(2, 2) + w(0, 2))
        let xy = 0.25 * (w(3, 3) - w(1, 3) - w(3, 1) + w(1, 1))
        let determinant = xx * yy - xy * xy
        guard determinant > 0 else { return (0, 0) }
        return (
            Float((-(yy * slope.0 - xy * slope.1) / determinant).clamped(-1, 1)),
            Float((-(xx * slope.1 - xy * slope.0) / determinant).clamped(-1, 1))
        )
    }

    /// Logarithms of the 5x5 blurred cells around a peak.
    private func window(_ map: HeatMap, _ x: Int, _ y: Int, _ blur: [Float]) -> [Double] {
        let reach = (blur.count - 1) / 2
        var across: [Float] = []
        for i in 0..<5 + 2 * reach {
            let row = mirror(y - 2 - reach + i, map.rows)
            for j in 0..<5 {
                var sum = 0.0
                for k in -reach...reach { sum += Double(blur[k + reach]) * Double(map[mirror(x - 2 + j + k, map.columns), row]) }
                across.append(Float(sum))
            }
        }
        var logarithms: [Double] = []
        for i in 0..<5 {
            for j in 0..<5 {
                let sum = blur.indices.reduce(0.0) { $0 + Double(blur[$1]) * Double(across[5 * (i + $1) + j]) }
                logarithms.append(Double(Float(log(Double(max(Float(sum), 1e-10))))))
            }
        }
        return logarithms
    }
}

/// A place beyond the border, mirrored at the middle of the first or last cell.
private func mirror(_ place: Int, _ size: Int) -> Int {
    if size == 1 { return 0 }
    let period = 2 * (size - 1)
    let inside = (place % period + period) % period
    return inside < size ? inside : period - inside
}

/// OpenCV's kernels for a sigma that it chooses itself; small ones are tables of binary fractions.
private func gaussian(_ size: Int) -> [Float] {
    switch size {
    case 1: return [1]
    case 3: return [0.25, 0.5, 0.25]
    case 5: return [0.0625, 0.25, 0.375, 0.25, 0.0625]
    case 7: return [0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125]
    case 9: return [0.015625, 0.05078125, 0.1171875, 0.19921875, 0.234375, 0.19921875, 0.1171875, 0.05078125, 0.015625]
    default: break
    }
    let sigma = 0.3 * (Double(size - 1) * 0.5 - 1) + 0.8
    let values = (0..<size).map { place -> Double in
        let away = Double(place) - Double(size - 1) / 2
        return exp(-(away * away) / (2 * sigma * sigma))
    }
    let total = values.reduce(0, +)
    return values.map { Float($0 / total) }
}
