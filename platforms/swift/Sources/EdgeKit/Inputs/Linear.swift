/// A part of a scaled image.
package struct Window: Sendable {
    package let left: Int
    package let top: Int
    package let width: Int
    package let height: Int
}

/// For each new place: the two old ones (times a step), and the share of the second.
private struct Axis {
    let first: [Int]
    let second: [Int]
    let share: [Float]

    /// `count` of the `fresh` places from `from` on. Beyond the border there is the last one alone or, if it `repeats`, twice.
    init(old: Int, fresh: Int, from: Int, count: Int, step: Int, repeats: Bool = false) {
        let scale = 1 / (Double(fresh) / Double(old))
        var (first, second, share) = ([Int](), [Int](), [Float]())
        for i in 0..<count {
            let place = Float((Double(from + i) + 0.5) * scale - 0.5)
            let low = Int(place.rounded(.down))
            let isInside = low >= 0 && low < old - 1
            first.append(min(max(low, 0), old - 1) * step)
            second.append(min(max(low + 1, 0), old - 1) * step)
            share.append(isInside || repeats ? place - place.rounded(.down) : 0)
        }
        (self.first, self.second, self.share) = (first, second, share)
    }

    /// Weights of the first and second place, in OpenCV's 11 bits.
    var fixed: (before: [Int32], after: [Int32]) {
        let after = share.map { Int32(($0 * 2048).rounded(.toNearestOrEven)) }
        return (after.map { 2048 - $0 }, after)
    }
}

/// A window of an image scaled to a size, written as RGB into `target`.
///
/// Equal to `cv2.resize` on x86, which does not treat its borders alike: beyond the left and right ones it takes the last
/// pixel, beyond the upper and lower ones it interpolates between the last row and itself, and rounds.
package func resizeLinear(
    _ image: Pixels, to size: Size, _ window: Window, into target: inout [UInt8], at start: Int, stride: Int
) {
    if size.width == image.width && size.height == image.height {
        copy(image, window, into: &target, at: start, stride: stride)
        return
    }
    let x = Axis(old: image.width, fresh: size.width, from: window.left, count: window.width, step: image.step)
    let y = Axis(
        old: image.height, fresh: size.height, from: window.top, count: window.height, step: image.stride, repeats: true)
    let (across, down) = (x.fixed, y.fixed)
    let count = 3 * window.width
    var upper = [Int32](repeating: 0, count: count)
    var lower = upper
    var (upperRow, lowerRow) = (-1, -1)
    for j in 0..<window.height {
        let (one, two) = (y.first[j], y.second[j])
        if one == lowerRow {
            swap(&upper, &lower)
            swap(&upperRow, &lowerRow)
        }
        if one != upperRow { interpolate(image, one, x, across, into: &upper) }
        if two != lowerRow { interpolate(image, two, x, across, into: &lower) }
        (upperRow, lowerRow) = (one, two)
        blend(upper, lower, down.before[j], down.after[j], into: &target, at: start + j * stride)
    }
}

/// A row of the image, interpolated across, in 1/128 of a grey level.
private func interpolate(
    _ image: Pixels, _ base: Int, _ x: Axis, _ weights: (before: [Int32], after: [Int32]), into row: inout [Int32]
) {
    let (red, blue) = (image.red, image.blue)
    image.data.withUnsafeBufferPointer { data in
        x.first.withUnsafeBufferPointer { first in
            x.second.withUnsafeBufferPointer { second in
                weights.before.withUnsafeBufferPointer { before in
                    weights.after.withUnsafeBufferPointer { after in
                        row.withUnsafeMutableBufferPointer { row in
                            for i in 0..<first.count {
                                let (one, two) = (base &+ first[i], base &+ second[i])
                                let (a, b) = (before[i], after[i])
                                let at = 3 &* i
                                row[at] = (Int32(data[one &+ red]) &* a &+ Int32(data[two &+ red]) &* b) >> 4
                                row[at &+ 1] = (Int32(data[one &+ 1]) &* a &+ Int32(data[two &+ 1]) &* b) >> 4
                                row[at &+ 2] = (Int32(data[one &+ blue]) &* a &+ Int32(data[two &+ blue]) &* b) >> 4
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Two such rows, interpolated down, as grey levels.
private func blend(_ upper: [Int32], _ lower: [Int32], _ a: Int32, _ b: Int32, into target: inout [UInt8], at to: Int) {
    upper.withUnsafeBufferPointer { upper in
        lower.withUnsafeBufferPointer { lower in
            target.withUnsafeMutableBufferPointer { target in
                let row = UnsafeMutableBufferPointer(rebasing: target[to..<to + upper.count])
                for i in 0..<upper.count {
                    row[i] = UInt8(truncatingIfNeeded: (((a &* upper[i]) >> 16) &+ ((b &* lower[i]) >> 16) &+ 2) >> 2)
                }
            }
        }
    }
}

private func copy(_ image: Pixels, _ window: Window, into target: inout [UInt8], at start: Int, stride: Int) {
    image.data.withUnsafeBufferPointer { data in
        target.withUnsafeMutableBufferPointer { target in
            for j in 0..<window.height {
                var from = (window.top + j) * image.stride + window.left * image.step
                var to = start + j * stride
                for _ in 0..<window.width {
                    target[to] = data[from + image.red]
                    target[to + 1] = data[from + 1]
                    target[to + 2] = data[from + image.blue]
                    from += image.step
                    to += 3
                }
            }
        }
    }
}

/// A plane of floats; its values begin at `start` of an array.
package struct Plane: Sendable {
    package let data: [Float]
    package let start: Int
    package let width: Int
    package let height: Int

    package init(_ data: [Float], start: Int = 0, width: Int, height: Int) {
        (self.data, self.start, self.width, self.height) = (data, start, width, height)
    }

    /// A part of the plane (all of it by default) scaled to another size, as `cv2.resize` does with floats.
    package func resized(width: Int, height: Int, part: Window? = nil) -> Plane {
        let part = part ?? Window(left: 0, top: 0, width: self.width, height: self.height)
        let x = Axis(old: part.width, fresh: width, from: 0, count: width, step: 1)
        let y = Axis(old: part.height, fresh: height, from: 0, count: height, step: 1)
        var upper = [Float](repeating: 0, count: width)
        var lower = upper
        var seen = (-1, -1)
        let result = [Float](unsafeUninitializedCapacity: width * height) { result, count in
            data.withUnsafeBufferPointer { data in
                func fill(_ row: inout [Float], _ source: Int) {
                    let base = start + (part.top + source) * self.width + part.left
                    for i in 0..<width {
                        row[i] = data[base + x.first[i]] * (1 - x.share[i]) + data[base + x.second[i]] * x.share[i]
                    }
                }
                for j in 0..<height {
                    if seen.0 != y.first[j] { fill(&upper, y.first[j]) }
                    if seen.1 != y.second[j] { fill(&lower, y.second[j]) }
                    seen = (y.first[j], y.second[j])
                    let (a, b) = (1 - y.share[j], y.share[j])
                    for i in 0..<width { result[j * width + i] = upper[i] * a + lower[i] * b }
                }
            }
            count = width * height
        }
        return Plane(result, width: width, height: height)
    }
}
