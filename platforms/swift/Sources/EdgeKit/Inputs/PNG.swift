/// PNG files of 8 bits a channel, without interlacing: the pictures of golden frames, read the same on any system.
package enum PNG {
    /// Throws `EdgeKitError.input`: damaged, or of another kind.
    package static func read(_ bytes: [UInt8], name: String) throws -> Pixels {
        let refused = { (what: String) in EdgeKitError.input("\(name): \(what); an RGB PNG of 8 bits a channel is needed") }
        guard bytes.starts(with: [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]) else { throw refused("not a PNG file") }
        func number(_ at: Int) -> Int { bytes[at..<at + 4].reduce(0) { $0 << 8 | Int($1) } }
        var at = 8
        var packed: [UInt8] = []
        var palette: [UInt8] = []
        var (width, height, channels) = (0, 0, 0)
        while at + 12 <= bytes.count {
            let length = number(at)
            let kind = String(decoding: bytes[at + 4..<at + 8], as: UTF8.self)
            let start = at + 8
            guard start + length + 4 <= bytes.count else { throw refused("cut short") }
            if kind == "IHDR" && length == 13 {
                (width, height) = (number(start), number(start + 4))
                let kinds = [0: 1, 2: 3, 3: 1, 4: 2, 6: 4]
                guard bytes[start + 8] == 8, bytes[start + 12] == 0, let found = kinds[Int(bytes[start + 9])],
                    (1...ImageRule.mostPixels).contains(width), (1...ImageRule.mostPixels).contains(height), width * height <= ImageRule.mostPixels
                else { throw refused("of a kind that is not read") }
                channels = bytes[start + 9] == 3 ? -1 : found
            }
            if kind == "PLTE" { palette = Array(bytes[start..<start + length]) }
            if kind == "IDAT" { packed += bytes[start..<start + length] }
            if kind == "IEND" { break }
            at = start + length + 4
        }
        guard channels != 0, packed.count > 2 else { throw refused("cut short") }
        let each = abs(channels)
        guard let raw = Inflate.unpack(packed[2...], count: height * (1 + width * each)) else { throw refused("damaged") }
        guard let flat = unfiltered(raw, rows: height, row: width * each, step: each) else { throw refused("damaged") }
        return Pixels(rgb: try rgb(flat, channels, palette, refused), width: width, height: height)
    }

    private static func rgb(
        _ flat: [UInt8], _ channels: Int, _ palette: [UInt8], _ refused: (String) -> EdgeKitError
    ) throws -> [UInt8] {
        switch channels {
        case 3: return flat
        case 4: return flat.indices.filter { $0 % 4 != 3 }.map { flat[$0] }
        case 1: return flat.flatMap { [$0, $0, $0] }
        case 2: return stride(from: 0, to: flat.count, by: 2).flatMap { [flat[$0], flat[$0], flat[$0]] }
        default:
            guard let most = flat.max(), 3 * Int(most) + 2 < palette.count else { throw refused("a colour is not in its palette") }
            return flat.flatMap { palette[3 * Int($0)..<3 * Int($0) + 3] }
        }
    }

    private static func unfiltered(_ raw: [UInt8], rows: Int, row: Int, step: Int) -> [UInt8]? {
        var flat = [UInt8](repeating: 0, count: rows * row)
        for y in 0..<rows {
            let filter = raw[y * (row + 1)]
            if filter > 4 { return nil }
            for x in 0..<row {
                let to = y * row + x
                let left = x >= step ? Int(flat[to - step]) : 0
                let up = y > 0 ? Int(flat[to - row]) : 0
                let corner = x >= step && y > 0 ? Int(flat[to - row - step]) : 0
                let guess =
                    switch filter {
                    case 1: left
                    case 2: up
                    case 3: (left + up) / 2
                    case 4: paeth(left, up, corner)
                    default: 0
                    }
                flat[to] = raw[y * (row + 1) + 1 + x] &+ UInt8(guess)
            }
        }
        return flat
    }

    private static func paeth(_ left: Int, _ up: Int, _ corner: Int) -> Int {
        let guess = left + up - corner
        let (a, b, c) = (abs(guess - left), abs(guess - up), abs(guess - corner))
        return a <= b && a <= c ? left : b <= c ? up : corner
    }
}
