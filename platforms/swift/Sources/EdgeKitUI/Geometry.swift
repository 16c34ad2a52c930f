import EdgeKit

/// How a camera's buffers have to be turned, and whether they are shown as a mirror shows them.
///
/// Buffers come as the sensor lies in the phone: in landscape, with the home button or its place to the right for the
/// back camera.
public struct CameraTurn: Sendable, Hashable {
    public enum Side: String, Sendable, CaseIterable { case back, front }

    /// How the screen is held; cases are named and counted as in `UIInterfaceOrientation`.
    public enum Screen: Int, Sendable, CaseIterable {
        case portrait = 1
        case portraitUpsideDown
        case landscapeRight
        case landscapeLeft
    }

    public let orientation: Orientation
    /// The front camera's preview is a mirror; results are then in the mirror's pixels.
    public let isMirrored: Bool

    public init(_ side: Side, held screen: Screen) {
        isMirrored = side == .front
        orientation =
            switch (screen, side) {
            case (.portrait, _): .right
            case (.portraitUpsideDown, _): .left
            // The front camera looks the other way, so that turning the phone turns its picture the other way, too.
            case (.landscapeRight, .back), (.landscapeLeft, .front): .up
            case (.landscapeLeft, .back), (.landscapeRight, .front): .down
            }
    }
}

/// A frame shown whole in the middle of a view, as `resizeAspect` shows it.
public struct Fitting: Sendable, Hashable {
    /// Points of the view for a pixel of the frame.
    public let scale: Double
    /// Where the frame's first pixel is in the view.
    public let left: Double
    public let top: Double

    public init(_ frame: Size, inWidth width: Double, height: Double) {
        scale = frame.width > 0 && frame.height > 0 ? min(width / Double(frame.width), height / Double(frame.height)) : 0
        left = (width - scale * Double(frame.width)) / 2
        top = (height - scale * Double(frame.height)) / 2
    }

    public func x(_ pixel: Float) -> Double { left + scale * Double(pixel) }
    public func y(_ pixel: Float) -> Double { top + scale * Double(pixel) }
}
