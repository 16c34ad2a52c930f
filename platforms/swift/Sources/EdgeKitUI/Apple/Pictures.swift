// UIKit exists on Apple's systems only. Nothing in this file has been compiled by edgekit's tests, which run on Linux.

#if canImport(UIKit)
import EdgeKit
import UIKit

extension Frame {
    /// A picture of any format that the system reads, turned upright.
    ///
    /// - Throws: `EdgeKitError.input`: not a picture.
    init(picture data: Data) throws { try self.init(image: UIImage(data: data)) }

    /// - Throws: `EdgeKitError.input`: no image.
    init(image: UIImage?) throws {
        guard let image, let stored = image.cgImage else {
            throw EdgeKitError.input("this is not a picture that the system can read; choose a PNG, JPEG or HEIC file")
        }
        let (width, height) = (stored.width, stored.height)
        var pixels = [UInt8](repeating: 0, count: 4 * width * height)
        let drawn = pixels.withUnsafeMutableBytes { bytes in
            let context = CGContext(
                data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
                space: CGColorSpace(name: CGColorSpace.sRGB)!, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            context?.draw(stored, in: CGRect(x: 0, y: 0, width: width, height: height))
            return context != nil
        }
        if !drawn { throw EdgeKitError.input("this picture of \(width)x\(height) cannot be drawn; choose a smaller one") }
        try self.init(pixels: pixels, width: width, height: height, orientation: image.imageOrientation.exif)
    }
}

extension UIImage.Orientation {
    fileprivate var exif: EdgeKit.Orientation {
        switch self {
        case .up: .up
        case .upMirrored: .upMirrored
        case .down: .down
        case .downMirrored: .downMirrored
        case .left: .left
        case .leftMirrored: .leftMirrored
        case .right: .right
        case .rightMirrored: .rightMirrored
        @unknown default: .up
        }
    }
}

extension Overlay.Bitmap {
    /// As an image for a canvas.
    var image: CGImage? {
        guard width > 0, height > 0, let data = CGDataProvider(data: Data(pixels) as CFData) else { return nil }
        return CGImage(
            width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 32, bytesPerRow: 4 * width,
            space: CGColorSpace(name: CGColorSpace.sRGB)!, bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.last.rawValue), provider: data,
            decode: nil, shouldInterpolate: false, intent: .defaultIntent)
    }
}
#endif
