/// A bitmap of its own window: one byte a pixel, 1 where the object is, its first pixel at (`left`, `top`) of the frame.
public struct Mask: Sendable, Hashable {
    public let left: Int
    public let top: Int
    public let width: Int
    public let height: Int
    public let data: [UInt8]

    public init(left: Int, top: Int, width: Int, height: Int, data: [UInt8]) {
        (self.left, self.top, self.width, self.height, self.data) = (left, top, width, height, data)
    }

    /// Pixels of the object.
    public var area: Int { data.reduce(0) { $0 + ($1 == 0 ? 0 : 1) } }

    /// The mask in the size of the frame, row after row, one byte a pixel.
    public func bitmap(in size: Size) -> [UInt8] {
        var whole = [UInt8](repeating: 0, count: size.width * size.height)
        for y in 0..<height {
            let to = (top + y) * size.width + left
            whole.replaceSubrange(to..<to + width, with: data[y * width..<(y + 1) * width])
        }
        return whole
    }

    /// The mask in COCO's encoding, in the size of the frame.
    public func rle(in size: Size) -> RLE { RLE(size: size, counts: RLE.compressed(counts(in: size))) }

    /// Lengths of runs, column by column, the first one of background.
    package func counts(in size: Size) -> [Int] {
        var counts: [Int] = []
        var inside = false
        var began = 0
        func turn(_ at: Int) {
            counts.append(at - began)
            began = at
            inside.toggle()
        }
        for x in 0..<width {
            let column = (left + x) * size.height + top
            if inside && (height < size.height || data[x] == 0) { turn((left + x - 1) * size.height + top + height) }
            for y in 0..<height where (data[y * width + x] != 0) != inside { turn(column + y) }
        }
        if inside {
            let end = (left + width - 1) * size.height + top + height
            if end < size.width * size.height { turn(end) }
        }
        counts.append(size.width * size.height - began)
        return counts
    }
}

/// COCO's compressed run lengths of one mask.
///
/// The mask is read column by column, and the lengths of its runs are listed, the first one of background. Every length
/// from the fourth on is replaced by its difference to the length two places before; then each number is written in groups
/// of 5 bits, lowest first, bit 5 set when another group follows, as characters from "0" on.
public struct RLE: Sendable, Hashable {
    public let size: Size
    public let counts: String

    public init(size: Size, counts: String) {
        (self.size, self.counts) = (size, counts)
    }

    /// Most groups of 5 bits that a number may have.
    private static let groups = 7

    /// The mask, in the smallest window that holds it. Throws `EdgeKitError.input`: not COCO's runs, or of another size.
    public func mask() throws -> Mask {
        let runs = try RLE.expanded(counts)
        guard (0...1 << 20).contains(size.width) && (0...1 << 20).contains(size.height) else {
            throw EdgeKitError.input("an image of \(size.width)x\(size.height) is none")
        }
        var total = 0
        for run in runs {
            total += run
            if run < 0 || total > size.width * size.height { break }
        }
        if runs.contains(where: { $0 < 0 }) || total != size.width * size.height {
            throw EdgeKitError.input("its runs cover another number of pixels than the image's \(size.width)x\(size.height)")
        }
        var (left, top, right, bottom) = (size.width, size.height, 0, 0)
        RLE.eachRun(runs, size.height) { x, from, to in
            (left, right) = (min(left, x), max(right, x + 1))
            (top, bottom) = (min(top, from), max(bottom, to))
        }
        if right == 0 { return Mask(left: 0, top: 0, width: 0, height: 0, data: []) }
        let width = right - left
        var data = [UInt8](repeating: 0, count: width * (bottom - top))
        RLE.eachRun(runs, size.height) { x, from, to in
            for y in from..<to { data[(y - top) * width + x - left] = 1 }
        }
        return Mask(left: left, top: top, width: width, height: bottom - top, data: data)
    }

    /// Each run of the object, cut at the ends of columns: column, first row, and the row after the last.
    private static func eachRun(_ counts: [Int], _ height: Int, _ seen: (Int, Int, Int) -> Void) {
        var at = 0
        for (place, count) in counts.enumerated() {
            let end = at + count
            while place % 2 == 1 && at < end {
                let x = at / height
                let last = min(end, (x + 1) * height)
                seen(x, at - x * height, last - x * height)
                at = last
            }
            at = end
        }
    }

    package static func compressed(_ counts: [Int]) -> String {
        var text: [UInt8] = []
        for (i, count) in counts.enumerated() {
            var rest = i > 2 ? count - counts[i - 2] : count
            var more = true
            while more {
                let group = rest & 31
                rest >>= 5
                more = group & 16 != 0 ? rest != -1 : rest != 0
                text.append(UInt8(group + (more ? 32 : 0) + 48))
            }
        }
        return String(decoding: text, as: UTF8.self)
    }

    private static func expanded(_ text: String) throws -> [Int] {
        let letters = Array(text.utf8)
        let refused = EdgeKitError.input("its counts '\(text.prefix(20))' are not COCO's compressed runs, or cut short")
        if letters.isEmpty { throw refused }
        var counts: [Int] = []
        var at = 0
        while at < letters.count {
            var (value, read, more) = (0, 0, true)
            while more {
                guard at < letters.count, (48...111).contains(letters[at]) else { throw refused }
                if read == groups { throw EdgeKitError.input("its counts '\(text.prefix(20))' have a number that is too long") }
                let letter = Int(letters[at]) - 48
                value += (letter & 31) << (5 * read)
                more = letter & 32 != 0
                read += 1
                at += 1
                if !more && letter & 16 != 0 { value -= 1 << (5 * read) }
            }
            let length = counts.count > 2 ? value + counts[counts.count - 2] : value
            if abs(length) > 1 << 40 { throw refused }
            counts.append(length)
        }
        return counts
    }
}
