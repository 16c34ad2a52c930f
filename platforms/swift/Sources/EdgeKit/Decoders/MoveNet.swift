import Foundation

/// MoveNet single-pose from its raw heads, (1, channels, rows, columns) each, of which x and y alternate as (y, x).
///
/// The person is at the best centre, weighted down with the distance from the middle of the input; each keypoint at the
/// best cell of its heatmap, weighted down with the distance from where the centre's regression points; then refined by
/// that cell's offset.
package struct MoveNet: Decoder {
    package static let name = "movenet"
    package static let task = "pose"

    /// Cells; what MoveNet adds to a distance before it divides by it, so that the nearest cells weigh about alike.
    private static let spread: Float = 1.8

    package init(_ options: Fields) throws {}

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let (centers, heatmaps) = (try heads.only("centers"), try heads.only("heatmaps"))
        try Grid.checkPlanes(centers)
        try Grid.checkPlanes(heatmaps)
        let grid = Grid(rows: centers.shape[2], columns: centers.shape[3])
        let (cells, count) = (grid.cells, heatmaps.shape[1])
        let (middle, heat) = (try grid.planes(centers, 1), try grid.planes(heatmaps, count))
        let ways = try grid.planes(try heads.only("regressions"), 2 * count)
        let moves = try grid.planes(try heads.only("offsets"), 2 * count)
        try checkFinite(middle)
        try checkFinite(heat)
        let centre = nearest(middle, 0, grid, Float(grid.rows / 2), Float(grid.columns / 2))
        var points: [Float] = []
        for k in 0..<count {
            let row = ways[2 * k * cells + centre] + grid.row(centre)
            let column = ways[(2 * k + 1) * cells + centre] + grid.column(centre)
            let cell = nearest(heat, k * cells, grid, row, column)
            let x: Float = grid.column(cell) + moves[(2 * k + 1) * cells + cell]
            let y: Float = grid.row(cell) + moves[2 * k * cells + cell]
            points.append(x * (Float(frame.width) / Float(grid.columns)))
            points.append(y * (Float(frame.height) / Float(grid.rows)))
            points.append(sigmoid(heat[k * cells + cell]))
        }
        return try onePerson(points, frame, above: threshold)
    }

    /// The cell with the largest sigmoid, weighted down with its distance from a place.
    private func nearest(_ logits: [Float], _ first: Int, _ grid: Grid, _ row: Float, _ column: Float) -> Int {
        var (best, found) = (-Float.infinity, 0)
        for cell in 0..<grid.cells {
            let away = hypot(grid.row(cell) - row, grid.column(cell) - column)
            let value = sigmoid(logits[first + cell]) / (away + MoveNet.spread)
            if value > best { (best, found) = (value, cell) }
        }
        return found
    }
}
