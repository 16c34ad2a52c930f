import Foundation

/// The map from pixels of the upright frame to pixels of the input: `x' = x * scaleX + offsetX`, and the same for y.
///
/// It is computed once for each frame; the way in and the way out use the very same numbers.
package struct Transform: Sendable {
    package let scaleX: Double
    package let scaleY: Double
    package let offsetX: Double
    package let offsetY: Double
    /// Of the upright frame.
    package let size: Size
    /// What the whole frame is scaled to.
    package let resized: Size

    /// The map that an image rule means for a frame.
    package init(_ rule: ImageRule, width: Int, height: Int) {
        var resized = Size(width: rule.width, height: rule.height)
        if rule.resize != .stretch {
            let (across, down) = (Double(rule.width) / Double(width), Double(rule.height) / Double(height))
            let ratio = rule.resize == .letterbox ? min(across, down) : max(across, down) / rule.crop
            resized.width = max(1, Int((Double(width) * ratio).rounded(.toNearestOrEven)))
            resized.height = max(1, Int((Double(height) * ratio).rounded(.toNearestOrEven)))
            if rule.resize == .crop {
                // Rounding must not leave a border uncovered.
                resized = Size(width: max(resized.width, rule.width), height: max(resized.height, rule.height))
            }
        }
        // Whole-pixel offsets: a half-pixel pad would shift every box by half a pixel. Shifting right rounds down.
        let isCentred = rule.align == .center
        scaleX = Double(resized.width) / Double(width)
        scaleY = Double(resized.height) / Double(height)
        offsetX = isCentred ? Double((rule.width - resized.width) >> 1) : 0
        offsetY = isCentred ? Double((rule.height - resized.height) >> 1) : 0
        size = Size(width: width, height: height)
        self.resized = resized
    }

    /// The map of a picture that has the input's size already: nothing changes.
    package init(whole rule: ImageRule) {
        (scaleX, scaleY, offsetX, offsetY) = (1, 1, 0, 0)
        size = Size(width: rule.width, height: rule.height)
        resized = size
    }

    /// The map to the part around a box: grown to the input's shape, never stretched.
    package init(around box: Box, margin: Double, _ rule: ImageRule, in size: Size) {
        let (columns, rows) = (Double(rule.width), Double(rule.height))
        let (x1, y1, x2, y2) = (Double(box.x1), Double(box.y1), Double(box.x2), Double(box.y2))
        let (wide, high) = (max(x2 - x1, 1) * margin, max(y2 - y1, 1) * margin)
        scaleX = columns / max(wide, high * (columns / rows))
        scaleY = rows / max(high, wide / (columns / rows))
        offsetX = columns / 2 - (x1 + x2) / 2 * scaleX
        offsetY = rows / 2 - (y1 + y2) / 2 * scaleY
        self.size = size
        resized = Size(width: Int((Double(size.width) * scaleX).rounded()), height: Int((Double(size.height) * scaleY).rounded()))
    }

    package func original(x: Float) -> Float { Float((Double(x) - offsetX) / scaleX) }
    package func original(y: Float) -> Float { Float((Double(y) - offsetY) / scaleY) }

    /// A box of the input in pixels of the frame, clipped to it.
    package func original(_ box: Box) -> Box {
        Box(original(x: box.x1), original(y: box.y1), original(x: box.x2), original(y: box.y2)).clipped(to: size)
    }
}
