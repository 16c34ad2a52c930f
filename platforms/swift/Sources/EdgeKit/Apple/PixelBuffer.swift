// Core Video exists on Apple's systems only. Nothing in this file has been compiled by edgekit's tests, which run on Linux.

#if canImport(CoreVideo)
import CoreVideo

extension Frame {
    /// A frame of a camera or a video: a pixel buffer of `kCVPixelFormatType_32BGRA`. Its bytes are copied once, so that the
    /// camera has its buffer back at once.
    ///
    /// - Throws: `EdgeKitError.input`: another format, or no bytes.
    public init(
        pixelBuffer: CVPixelBuffer, orientation: Orientation = .up, mirrored: Bool = false, time: Double? = nil
    ) throws {
        guard CVPixelBufferGetPixelFormatType(pixelBuffer) == kCVPixelFormatType_32BGRA else {
            throw EdgeKitError.input("a pixel buffer must be 32BGRA; set videoSettings of the output to kCVPixelFormatType_32BGRA")
        }
        CVPixelBufferLockBaseAddress(pixelBuffer, .readOnly)
        defer { CVPixelBufferUnlockBaseAddress(pixelBuffer, .readOnly) }
        guard let base = CVPixelBufferGetBaseAddress(pixelBuffer) else { throw EdgeKitError.input("a pixel buffer without bytes") }
        let (height, row) = (CVPixelBufferGetHeight(pixelBuffer), CVPixelBufferGetBytesPerRow(pixelBuffer))
        try self.init(
            pixels: Array(UnsafeRawBufferPointer(start: base, count: row * height)), width: CVPixelBufferGetWidth(pixelBuffer),
            height: height, bytesPerRow: row, format: .bgra, orientation: orientation, mirrored: mirrored, time: time)
    }
}
#endif
