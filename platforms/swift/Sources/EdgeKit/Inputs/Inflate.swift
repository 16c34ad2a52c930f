/// DEFLATE (RFC 1951), for PNG files.
package enum Inflate {
    /// Exactly `count` unpacked bytes; nil where the data is damaged or gives another number.
    package static func unpack(_ packed: ArraySlice<UInt8>, count: Int) -> [UInt8]? {
        var bits = Bits(packed)
        var out: [UInt8] = []
        out.reserveCapacity(count)
        var last = false
        while !last {
            guard let final = bits.take(1), let kind = bits.take(2) else { return nil }
            last = final == 1
            switch kind {
            case 0: guard stored(&bits, &out, count) else { return nil }
            case 1: guard coded(&bits, &out, count, fixedLiterals, fixedDistances) else { return nil }
            case 2:
                guard let (literals, distances) = tables(&bits), coded(&bits, &out, count, literals, distances) else { return nil }
            default: return nil
            }
        }
        return out.count == count ? out : nil
    }

    private struct Bits {
        let bytes: ArraySlice<UInt8>
        var at: Int
        var buffer: UInt64 = 0
        var held = 0

        init(_ bytes: ArraySlice<UInt8>) {
            self.bytes = bytes
            at = bytes.startIndex
        }

        mutating func take(_ count: Int) -> Int? {
            while held < count {
                guard at < bytes.endIndex else { return nil }
                buffer |= UInt64(bytes[at]) << UInt64(held)
                at += 1
                held += 8
            }
            let value = Int(buffer & ((1 << UInt64(count)) - 1))
            buffer >>= UInt64(count)
            held -= count
            return value
        }

        mutating func align() { _ = take(held % 8) }
    }

    /// Canonical Huffman codes: how many there are of each length, and the symbols in their order.
    private struct Codes {
        var counts = [Int](repeating: 0, count: 16)
        var symbols: [Int] = []

        /// Nil where there are more codes than their lengths allow.
        init?(_ lengths: [Int]) {
            for length in lengths where length > 0 { counts[length] += 1 }
            var left = 1
            for length in 1...15 {
                left = 2 * left - counts[length]
                if left < 0 { return nil }
            }
            symbols = lengths.indices.filter { lengths[$0] > 0 }.sorted { (lengths[$0], $0) < (lengths[$1], $1) }
        }

        func next(_ bits: inout Bits) -> Int? {
            var (code, first, index) = (0, 0, 0)
            for length in 1...15 {
                guard let bit = bits.take(1) else { return nil }
                code |= bit
                let count = counts[length]
                if code - first < count { return symbols[index + code - first] }
                index += count
                first = (first + count) << 1
                code <<= 1
            }
            return nil
        }
    }

    private static let fixedLiterals = Codes((0..<288).map { $0 < 144 ? 8 : $0 < 256 ? 9 : $0 < 280 ? 7 : 8 })!
    private static let fixedDistances = Codes([Int](repeating: 5, count: 30))!
    private static let order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
    private static let lengthBase = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258]
    private static let lengthExtra = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0]

    private static func stored(_ bits: inout Bits, _ out: inout [UInt8], _ most: Int) -> Bool {
        bits.align()
        guard let length = bits.take(16), let inverse = bits.take(16), length ^ inverse == 0xFFFF, out.count + length <= most else {
            return false
        }
        for _ in 0..<length {
            guard let byte = bits.take(8) else { return false }
            out.append(UInt8(byte))
        }
        return true
    }

    private static func tables(_ bits: inout Bits) -> (Codes, Codes)? {
        guard let literals = bits.take(5), let distances = bits.take(5), let codes = bits.take(4) else { return nil }
        var lengths = [Int](repeating: 0, count: 19)
        for i in 0..<codes + 4 {
            guard let length = bits.take(3) else { return nil }
            lengths[order[i]] = length
        }
        guard let meta = Codes(lengths) else { return nil }
        let wanted = literals + 257 + distances + 1
        var all: [Int] = []
        while all.count < wanted {
            guard let symbol = meta.next(&bits) else { return nil }
            switch symbol {
            case 16:
                guard let last = all.last, let more = bits.take(2) else { return nil }
                all += [Int](repeating: last, count: 3 + more)
            case 17, 18:
                guard let more = bits.take(symbol == 17 ? 3 : 7) else { return nil }
                all += [Int](repeating: 0, count: more + (symbol == 17 ? 3 : 11))
            default: all.append(symbol)
            }
        }
        if all.count > wanted { return nil }
        guard let one = Codes(Array(all.prefix(literals + 257))), let other = Codes(Array(all.dropFirst(literals + 257))) else { return nil }
        return (one, other)
    }

    private static func coded(_ bits: inout Bits, _ out: inout [UInt8], _ most: Int, _ literals: Codes, _ distances: Codes) -> Bool {
        while true {
            guard let symbol = literals.next(&bits) else { return false }
            if symbol == 256 { return true }
            if symbol < 256 {
                if out.count >= most { return false }
                out.append(UInt8(symbol))
                continue
            }
            guard symbol < 286, let extra = bits.take(lengthExtra[symbol - 257]), let code = distances.next(&bits), code < 30,
                let further = bits.take(code < 4 ? 0 : code / 2 - 1)
            else { return false }
            let length = lengthBase[symbol - 257] + extra
            let distance = (code < 4 ? code + 1 : (2 + code % 2) << (code / 2 - 1) + 1) + further
            guard distance <= out.count, out.count + length <= most else { return false }
            for _ in 0..<length { out.append(out[out.count - distance]) }
        }
    }
}
