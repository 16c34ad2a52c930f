/// Turns frames into input tensors by one rule, reusing its canvas from frame to frame.
package struct Preprocessor: Sendable {
    package let rule: ImageRule
    private let scaler: Scaler
    private var canvas: [UInt8]
    /// Normalised value of every pixel level, 3 times 256, per channel in the model's colour order.
    private let table: [Float]
    private var covered: Size?

    /// A crop that would scale the whole frame to more than this many times the input is sampled bilinearly, as in Python.
    private static let strip = 8

    package init(_ rule: ImageRule, scaler: Scaler = .exact) {
        (self.rule, self.scaler) = (rule, scaler)
        canvas = [UInt8](repeating: 0, count: 3 * rule.width * rule.height)
        var table: [Float] = []
        for channel in 0..<3 {
            let (mean, std) = (rule.mean[channel], rule.std[channel])
            for level in 0..<256 { table.append(Float((Double(level) * rule.scale - mean) / std)) }
        }
        self.table = table
    }

    /// Tensor (1, 3, height, width) and the transform.
    package mutating func run(_ image: Pixels) -> (tensor: Tensor, mapping: Transform) {
        let mapping = resize(image)
        return (normalise(canvas), mapping)
    }

    private mutating func resize(_ given: Pixels) -> Transform {
        let mapping = Transform(rule, width: given.width, height: given.height)
        let size = mapping.resized
        var image = given
        if rule.interpolation != .linear && size.width * size.height <= Preprocessor.strip * rule.width * rule.height {
            // What follows finds it in its size already.
            image = resample(image, to: size, bicubic: rule.interpolation == .bicubic)
        }
        #if canImport(Accelerate)
        if rule.interpolation == .linear && scaler == .vImage && size.width * size.height <= Preprocessor.strip * rule.width * rule.height {
            image = scaledByVImage(image, to: size) ?? image
        }
        #endif
        if rule.resize == .letterbox { pad(mapping) }
        // The part of the scaled image that lies on the input.
        let (x, y) = (Int(mapping.offsetX), Int(mapping.offsetY))
        let (left, top) = (max(0, -x), max(0, -y))
        let window = Window(
            left: left, top: top, width: min(size.width - left, rule.width), height: min(size.height - top, rule.height))
        let start = 3 * (max(0, y) * rule.width + max(0, x))
        resizeLinear(image, to: size, window, into: &canvas, at: start, stride: 3 * rule.width)
        return mapping
    }

    private mutating func pad(_ mapping: Transform) {
        if covered == mapping.resized { return }
        let levels = padding
        canvas.withUnsafeMutableBufferPointer { canvas in
            for i in stride(from: 0, to: canvas.count, by: 3) {
                for k in 0..<3 { canvas[i + k] = levels[k] }
            }
        }
        covered = mapping.resized
    }

    /// The levels around an image, as RGB.
    private var padding: [UInt8] { (rule.color == .rgb ? rule.pad : rule.pad.reversed()).map { UInt8($0) } }

    /// The tensor of a part of an image, sampled bilinearly; padded where it is outside of the image. As `cv2.warpAffine`.
    package func part(_ image: Pixels, _ mapping: Transform) -> Tensor {
        let places = [image.red, 1, image.blue]
        let levels = padding.map { Double($0) }
        func level(_ x: Int, _ y: Int, _ channel: Int) -> Double {
            if x < 0 || x >= image.width || y < 0 || y >= image.height { return levels[channel] }
            return Double(image.data[y * image.stride + x * image.step + places[channel]])
        }
        var canvas = [UInt8](repeating: 0, count: 3 * rule.width * rule.height)
        var to = 0
        for j in 0..<rule.height {
            let y = (Double(j) + 0.5 - mapping.offsetY) / mapping.scaleY - 0.5
            let (top, down) = (Int(y.rounded(.down)), y - y.rounded(.down))
            for i in 0..<rule.width {
                let x = (Double(i) + 0.5 - mapping.offsetX) / mapping.scaleX - 0.5
                let (left, across) = (Int(x.rounded(.down)), x - x.rounded(.down))
                for channel in 0..<3 {
                    let upper = level(left, top, channel) * (1 - across) + level(left + 1, top, channel) * across
                    let lower = level(left, top + 1, channel) * (1 - across) + level(left + 1, top + 1, channel) * across
                    canvas[to] = UInt8((upper * (1 - down) + lower * down).rounded())
                    to += 1
                }
            }
        }
        return normalise(canvas)
    }

    /// Tensor of RGB pixels that have the input's size already.
    package func normalise(_ canvas: [UInt8]) -> Tensor {
        let cells = rule.width * rule.height
        let (first, third) = rule.color == .rgb ? (0, 2) : (2, 0)
        let data = [Float](unsafeUninitializedCapacity: 3 * cells) { data, count in
            canvas.withUnsafeBufferPointer { canvas in
                table.withUnsafeBufferPointer { table in
                    var at = 0
                    for i in 0..<cells {
                        data[i] = table[Int(canvas[at + first])]
                        data[cells + i] = table[256 + Int(canvas[at + 1])]
                        data[2 * cells + i] = table[512 + Int(canvas[at + third])]
                        at += 3
                    }
                }
            }
            count = 3 * cells
        }
        return Tensor(data, shape: [1, 3, rule.height, rule.width])
    }
}
