/// How stored pixels have to be turned to be upright, as EXIF counts; raw values are those of `CGImagePropertyOrientation`.
public enum Orientation: Int, Sendable, CaseIterable {
    case up = 1
    case upMirrored
    case down
    case downMirrored
    case leftMirrored
    case right
    case rightMirrored
    case left
}

/// Pixels in memory, how they have to be turned, and when they were seen.
public struct Frame: Sendable {
    /// The order of bytes in a pixel.
    public enum Format: Sendable, CaseIterable {
        case rgb
        case rgba
        /// What cameras of Apple's systems give.
        case bgra

        package var channels: Int { self == .rgb ? 3 : 4 }
    }

    public let pixels: [UInt8]
    /// Of the stored pixels.
    public let width: Int
    public let height: Int
    public let bytesPerRow: Int
    public let format: Format
    public let orientation: Orientation
    /// Look at the mirror image of the upright frame: results are in its pixels. For previews that show a mirrored camera.
    public let isMirrored: Bool
    /// Seconds on any clock that runs forward; trackers need it.
    public let time: Double?

    /// - Throws: `EdgeKitError.input`: no pixels, or too few bytes for them.
    public init(
        pixels: [UInt8], width: Int, height: Int, bytesPerRow: Int? = nil, format: Format = .rgba,
        orientation: Orientation = .up, mirrored: Bool = false, time: Double? = nil
    ) throws {
        guard width >= 1 && height >= 1 && width <= 1 << 20 && height <= 1 << 20 else {
            throw EdgeKitError.input("an image must have at least one pixel, not \(width)x\(height); is the camera open, the file loaded?")
        }
        let row = width * format.channels
        let bytesPerRow = bytesPerRow ?? row
        guard bytesPerRow >= row && bytesPerRow <= 1 << 32 && pixels.count >= bytesPerRow * (height - 1) + row else {
            throw EdgeKitError.input(
                "an image of \(width)x\(height) in \(format) must have \(row * height) bytes, not \(pixels.count) in rows of \(bytesPerRow)")
        }
        self.pixels = pixels
        self.width = width
        self.height = height
        self.bytesPerRow = bytesPerRow
        self.format = format
        self.orientation = orientation
        self.isMirrored = mirrored
        self.time = time
    }

    /// The upright picture; the pixels themselves where they are upright.
    package var upright: Pixels {
        let stored = Pixels(
            data: pixels, width: width, height: height, stride: bytesPerRow, step: format.channels,
            red: format == .bgra ? 2 : 0, blue: format == .bgra ? 0 : 2)
        if orientation == .up && !isMirrored { return stored }
        let turned = orientation.rawValue > 4
        let size = turned ? Size(width: height, height: width) : Size(width: width, height: height)
        // Where the first upright pixel is stored, and the steps to its right and lower neighbours.
        let (step, row) = (stored.step, stored.stride)
        let (lastX, lastY) = ((width - 1) * step, (height - 1) * row)
        var (first, right, down) =
            switch orientation {
            case .up: (0, step, row)
            case .upMirrored: (lastX, -step, row)
            case .down: (lastX + lastY, -step, -row)
            case .downMirrored: (lastY, step, -row)
            case .leftMirrored: (0, row, step)
            case .right: (lastY, -row, step)
            case .rightMirrored: (lastX + lastY, -row, -step)
            case .left: (lastX, row, -step)
            }
        if isMirrored { (first, right) = (first + (size.width - 1) * right, -right) }
        return stored.moved(size, first, right, down)
    }
}

/// Pixels of one upright image: `red` and `blue` are places in a pixel, green is between them.
package struct Pixels: Sendable {
    package let data: [UInt8]
    package let width: Int
    package let height: Int
    /// Bytes from row to row, and from pixel to pixel.
    package let stride: Int
    package let step: Int
    package let red: Int
    package let blue: Int

    package init(data: [UInt8], width: Int, height: Int, stride: Int, step: Int, red: Int, blue: Int) {
        (self.data, self.width, self.height) = (data, width, height)
        (self.stride, self.step, self.red, self.blue) = (stride, step, red, blue)
    }

    /// RGB, 3 bytes a pixel.
    package init(rgb data: [UInt8], width: Int, height: Int) {
        self.init(data: data, width: width, height: height, stride: 3 * width, step: 3, red: 0, blue: 2)
    }

    fileprivate func moved(_ size: Size, _ first: Int, _ right: Int, _ down: Int) -> Pixels {
        let turned = [UInt8](unsafeUninitializedCapacity: 3 * size.width * size.height) { target, count in
            data.withUnsafeBufferPointer { data in
                var to = 0
                for y in 0..<size.height {
                    var from = first + y * down
                    for _ in 0..<size.width {
                        target[to] = data[from + red]
                        target[to + 1] = data[from + 1]
                        target[to + 2] = data[from + blue]
                        from += right
                        to += 3
                    }
                }
            }
            count = 3 * size.width * size.height
        }
        return Pixels(rgb: turned, width: size.width, height: size.height)
    }
}
