import Foundation

/// YOLOv3, YOLOv5 and YOLOv7: boxes as changes of anchors, several in each cell. One convolution a level, anchor after
/// anchor: x, y, width, height, objectness, classes.
///
/// score = sigmoid(objectness) * sigmoid(class). YOLOv5 and 7: centre (2 sigmoid(x, y) - 0.5 + cell) * stride, size
/// (2 sigmoid(w, h))^2 * anchor; YOLOv3: (sigmoid(x, y) + cell) * stride, and exp(w, h) * anchor.
package struct Anchors: Decoder {
    package static let name = "anchors"

    private let strides: [Int]
    private let anchors: [[[Double]]]
    private let isExponential: Bool

    package init(_ options: Fields) throws {
        strides = try options.read("strides", Read.list(Read.count))
        anchors = try options.read("anchors", Read.list(Read.list(Read.list(of: 2, Read.positive))))
        isExponential = try options.read("sizes", Read.word("squared", "exponential"), or: "squared") == "exponential"
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        let every = try heads.levels("predictions", strides.count)
        if anchors.count != strides.count { throw Misfit("\(anchors.count) levels of anchors for \(strides.count) strides") }
        let (cut, least) = (logit(threshold), Float(threshold))
        var found = Candidates()
        let row = 5 + frame.classes
        var first = 0
        for (level, stride) in strides.enumerated() {
            let grid = try Grid(every[level], frame, stride: Double(stride))
            let values = try grid.planes(every[level], anchors[level].count * row)
            let (cells, stride) = (grid.cells, Float(stride))
            for (kind, prior) in anchors[level].enumerated() {
                let base = kind * row * cells
                let presence = values[base + 4 * cells..<base + 5 * cells]
                try checkFinite(presence)
                let best = try survivors(values, base + 5 * cells, frame.classes, cells, above: cut)
                for cell in 0..<cells {
                    let present = presence[base + 4 * cells + cell]
                    guard present > cut && best.values[cell] > cut else { continue }
                    let score = sigmoid(present) * sigmoid(best.values[cell])
                    guard score > least else { continue }
                    let raw = try (0..<4).map { try finite(values[base + $0 * cells + cell]) }
                    var (x, y) = (sigmoid(raw[0]), sigmoid(raw[1]))
                    var (width, height) = (Float(prior[0]), Float(prior[1]))
                    if isExponential {
                        (width, height) = (exp(raw[2]) * width, exp(raw[3]) * height)
                    } else {
                        (x, y) = (2 * x - 0.5, 2 * y - 0.5)
                        let (w, h) = (2 * sigmoid(raw[2]), 2 * sigmoid(raw[3]))
                        (width, height) = (w * w * width, h * h * height)
                    }
                    found.add(
                        x: (x + grid.column(cell)) * stride, y: (y + grid.row(cell)) * stride, width: width, height: height,
                        score, best.classIds[cell], first + kind * cells + cell)
                }
            }
            first += cells * anchors[level].count
        }
        return found
    }
}
