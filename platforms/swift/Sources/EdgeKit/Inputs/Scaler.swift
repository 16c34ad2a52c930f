/// How frames are scaled to the input.
public enum Scaler: Sendable, CaseIterable {
    /// As Python does it, in whole numbers: the same on any device.
    case exact
    /// Apple's vImage, which is faster with large frames and averages where they shrink. Only where the bundle's rule says
    /// `interpolation: linear` and the frame has 4 bytes a pixel; otherwise, and on other systems, as `exact`. Run
    /// `selfCheck()`, which does not scale, and compare results with `exact` on photographs of your own before you use it.
    case vImage
}

// Accelerate exists on Apple's systems only. Nothing below has been compiled by edgekit's tests, which run on Linux.

#if canImport(Accelerate)
import Accelerate

/// An image of 4 bytes a pixel in another size; nil where vImage refuses it.
func scaledByVImage(_ image: Pixels, to size: Size) -> Pixels? {
    guard image.step == 4 else { return nil }
    var failed = false
    let data = [UInt8](unsafeUninitializedCapacity: 4 * size.width * size.height) { target, count in
        image.data.withUnsafeBytes { source in
            var from = vImage_Buffer(
                data: UnsafeMutableRawPointer(mutating: source.baseAddress), height: vImagePixelCount(image.height),
                width: vImagePixelCount(image.width), rowBytes: image.stride)
            var to = vImage_Buffer(
                data: target.baseAddress, height: vImagePixelCount(size.height), width: vImagePixelCount(size.width),
                rowBytes: 4 * size.width)
            failed = vImageScale_ARGB8888(&from, &to, nil, vImage_Flags(kvImageNoFlags)) != kvImageNoError
        }
        count = failed ? 0 : 4 * size.width * size.height
    }
    if failed { return nil }
    return Pixels(
        data: data, width: size.width, height: size.height, stride: 4 * size.width, step: 4, red: image.red, blue: image.blue)
}
#endif
