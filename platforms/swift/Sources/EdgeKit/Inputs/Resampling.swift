/// Pillow's weights are whole multiples of 1 / one.
private let one = Double(1 << 22)

/// An image in another size as Pillow makes it, which averages over all pixels when an image shrinks: across first and
/// then down, rounded to whole grey levels in between.
package func resample(_ image: Pixels, to size: Size, bicubic: Bool) -> Pixels {
    let narrow = along(
        image.data, lines: image.height, lineStep: image.stride, step: image.step, red: image.red, blue: image.blue,
        Weights(old: image.width, fresh: size.width, bicubic), targetLine: 3 * size.width, targetStep: 3)
    // The same with rows and columns exchanged.
    let small = along(
        narrow, lines: size.width, lineStep: 3, step: 3 * size.width, red: 0, blue: 2,
        Weights(old: image.height, fresh: size.height, bicubic), targetLine: 3, targetStep: 3 * size.width)
    return Pixels(rgb: small, width: size.width, height: size.height)
}

private func along(
    _ source: [UInt8], lines: Int, lineStep: Int, step: Int, red: Int, blue: Int, _ weights: Weights,
    targetLine: Int, targetStep: Int
) -> [UInt8] {
    let total = 3 * lines * weights.first.count
    return [UInt8](unsafeUninitializedCapacity: total) { target, count in
        source.withUnsafeBufferPointer { source in
            weights.values.withUnsafeBufferPointer { values in
                for line in 0..<lines {
                    for place in weights.first.indices {
                        var (r, g, b) = (0.0, 0.0, 0.0)
                        var at = line * lineStep + weights.first[place] * step
                        for k in weights.start[place]..<weights.start[place + 1] {
                            let weight = values[k]
                            r += Double(source[at + red]) * weight
                            g += Double(source[at + 1]) * weight
                            b += Double(source[at + blue]) * weight
                            at += step
                        }
                        let to = line * targetLine + place * targetStep
                        target[to] = level(r)
                        target[to + 1] = level(g)
                        target[to + 2] = level(b)
                    }
                }
            }
        }
        count = total
    }
}

private func level(_ sum: Double) -> UInt8 { UInt8(((sum + one / 2) / one).rounded(.down).clamped(0, 255)) }

/// For each new place: the first old one, and where its weights begin.
///
/// The kernel is a triangle, or Keys' cubic with a = -0.5 (IEEE Trans. ASSP 29, 1981), cut off at the border.
private struct Weights {
    let first: [Int]
    let start: [Int]
    let values: [Double]

    init(old: Int, fresh: Int, _ bicubic: Bool) {
        let reach = bicubic ? 2.0 : 1.0
        let scale = Double(old) / Double(fresh)
        let stretch = max(scale, 1)
        var (first, start, values) = ([Int](), [0], [Double]())
        for i in 0..<fresh {
            let centre = (Double(i) + 0.5) * scale
            let low = max(Int((centre - reach * stretch + 0.5).rounded(.down)), 0)
            let high = min(Int((centre + reach * stretch + 0.5).rounded(.down)), old)
            let some = (low..<high).map { place in
                let x = (Double(place) + 0.5 - centre) / stretch
                return bicubic ? cubic(x) : max(1 - abs(x), 0)
            }
            let total = some.reduce(0, +)
            first.append(low)
            values += some.map { value in
                let share = value / total * one
                return (share + (share < 0 ? -0.5 : 0.5)).rounded(.towardZero)
            }
            start.append(values.count)
        }
        (self.first, self.start, self.values) = (first, start, values)
    }
}

private func cubic(_ x: Double) -> Double {
    let away = abs(x)
    if away < 1 { return (1.5 * away - 2.5) * away * away + 1 }
    return away < 2 ? ((-0.5 * away + 2.5) * away - 4) * away + 2 : 0
}
