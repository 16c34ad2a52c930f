/// Boxes that the graph decoded itself, and keypoints, mask coefficients or angles beside them.
package struct Decoded: Decoder {
    package static let name = "decoded"
    package static let attachments = ["coefficients", "keypoints", "angles"]

    private enum Layout: String, CaseIterable { case channels, rows, detections, separate }

    private let layout: Layout
    private let boxFormat: String
    private let isNormalized: Bool
    private let hasObjectness: Bool
    private let areLogits: Bool
    private let attached: Int

    package init(_ options: Fields) throws {
        layout = try options.read("layout", Read.word(), or: .channels)
        boxFormat = try options.read("box_format", Read.word("xyxy", "xywh"), or: "xywh")
        isNormalized = try options.read("normalized", Read.bool, or: false)
        hasObjectness = try options.read("objectness", Read.bool, or: false)
        areLogits = try options.read("logits", Read.bool, or: false)
        attached = try options.read("attached", Read.int(from: 0, to: 1 << 16), or: 0)
    }

    /// A table of rows by value.
    private struct Table {
        let data: [Float]
        let rows: Int
        var width: Int
        let rowStep: Int
        let step: Int

        init(_ head: Tensor, transposed: Bool) throws {
            let (data, rows, columns) = try matrix(head)
            self.data = data
            (self.rows, width, rowStep, step) = transposed ? (columns, rows, 1, columns) : (rows, columns, columns, 1)
        }

        subscript(row: Int, k: Int) -> Float { data[row * rowStep + k * step] }
    }

    private func whole(_ heads: Heads) throws -> Table {
        try Table(try heads.only("predictions"), transposed: layout == .channels)
    }

    package func run(_ heads: Heads, _ frame: InputFrame, above threshold: Double) throws -> Candidates {
        if layout == .separate {
            let boxes = try heads.only("boxes")
            if boxes.shape.last != 4 { throw Misfit("boxes end in \(boxes.shape.last ?? 0) where 4 is needed") }
            let classes = try Table(try heads.only("classes"), transposed: false)
            return try scored(try Table(boxes, transposed: false), classes, from: 0, frame, threshold)
        }
        var table = try whole(heads)
        table.width -= attached
        if layout == .detections { return try detections(table, frame, threshold) }
        return try scored(table, table, from: 4, frame, threshold)
    }

    /// Candidates of a table with boxes in front and one with values from `from` on, an objectness perhaps first.
    private func scored(_ boxes: Table, _ values: Table, from: Int, _ frame: InputFrame, _ threshold: Double) throws -> Candidates {
        let first = from + (hasObjectness ? 1 : 0)
        let (width, wanted) = (values.width + 4 - from, 4 + (hasObjectness ? 1 : 0) + frame.classes)
        if width != wanted || boxes.rows != values.rows || frame.classes == 0 {
            throw Misfit("\(width) values for each box, but \(wanted) are needed for \(frame.classes) classes")
        }
        var found = Candidates()
        for row in 0..<values.rows {
            var (best, classId) = (values[row, first], 0)
            for c in 1..<max(frame.classes, 1) where !best.isNaN && !(values[row, first + c] <= best) {
                (best, classId) = (values[row, first + c], c)
            }
            var score = activated(try finite(best))
            if hasObjectness { score *= activated(try finite(values[row, first - 1])) }
            if score > Float(threshold) { add(&found, boxes, row, frame, score, classId) }
        }
        return found
    }

    private func activated(_ value: Float) -> Float { areLogits ? sigmoid(value) : value }

    /// Candidates of rows x1, y1, x2, y2, score, class.
    private func detections(_ table: Table, _ frame: InputFrame, _ threshold: Double) throws -> Candidates {
        if table.width != 6 { throw Misfit("\(table.width) values for each box, but 6 are needed: x1, y1, x2, y2, score, class") }
        var found = Candidates()
        for row in 0..<table.rows {
            let score = try finite(table[row, 4])
            let number = try finite(table[row, 5]).rounded(.towardZero)
            // Rows that the graph only fills up with have no score, and sometimes the class -1.
            if !(score > 0 || score > Float(threshold)) { continue }
            guard let classId = Int(exactly: number), (0..<frame.classes).contains(classId) else {
                throw Misfit("class \(number), but the contract names \(frame.classes) classes")
            }
            if score > Float(threshold) { add(&found, table, row, frame, score, classId) }
        }
        return found
    }

    private func add(_ found: inout Candidates, _ table: Table, _ row: Int, _ frame: InputFrame, _ score: Float, _ classId: Int) {
        let (x, y) = isNormalized ? (Float(frame.width), Float(frame.height)) : (1, 1)
        let (a, b, c, d) = (table[row, 0] * x, table[row, 1] * y, table[row, 2] * x, table[row, 3] * y)
        if boxFormat == "xywh" {
            found.add(x: a, y: b, width: c, height: d, score, classId, row)
        } else {
            found.add(Box(a, b, c, d), score, classId, row)
        }
    }

    package func attach(_ role: String, _ heads: Heads, _ frame: InputFrame, at anchors: [Int]) throws -> Attached {
        let table = try whole(heads)
        let further = anchors.flatMap { row in (table.width - attached..<table.width).map { table[row, $0] } }
        let values = Attached(data: further, width: attached)
        switch role {
        case "coefficients": return values
        case "angles": return try oriented(table, values, frame, anchors)
        default: break
        }
        var found = try points(values, frame.keypoints)
        if isNormalized {
            for k in stride(from: 0, to: found.data.count, by: 3) {
                found.data[k] *= Float(frame.width)
                found.data[k + 1] *= Float(frame.height)
            }
        }
        return found
    }

    /// Oriented boxes (n, 5): centre and size before the scores, the angle behind them.
    private func oriented(_ table: Table, _ turned: Attached, _ frame: InputFrame, _ anchors: [Int]) throws -> Attached {
        if attached != 1 || boxFormat != "xywh" {
            throw Misfit("decoded oriented boxes are box_format: xywh with attached: 1, the angle in radians, not \(boxFormat) with \(attached)")
        }
        let (x, y) = isNormalized ? (Float(frame.width), Float(frame.height)) : (1, 1)
        let data = anchors.enumerated().flatMap { i, row in
            [table[row, 0] * x, table[row, 1] * y, table[row, 2] * x, table[row, 3] * y, turned.data[i]]
        }
        return Attached(data: data, width: 5)
    }
}
