/// The embeddings of all tokens: `embeddings.npy` (vocabulary, width) of 16 or 32-bit floats, of which rows are read.
struct Embeddings: Sendable {
    let count: Int
    let width: Int
    private let bytes: [UInt8]
    private let start: Int
    private let half: Bool

    /// - Throws: `EdgeKitError.bundle`: not such a file, or not of this width.
    init(_ bytes: [UInt8], width: Int) throws {
        let wrong = EdgeKitError.bundle(.invalid, "embeddings.npy: is no array (vocabulary, \(width)) of float16 or float32; convert the model again")
        guard bytes.count > 12, bytes[1..<6].elementsEqual("NUMPY".utf8) else { throw wrong }
        let wide = bytes[6] == 1 ? 2 : 4
        start = 8 + wide + (0..<wide).reduce(0) { $0 | Int(bytes[8 + $1]) << (8 * $1) }
        guard start <= bytes.count else { throw wrong }
        let header = String(decoding: bytes[(8 + wide)..<start], as: UTF8.self)
        half = header.contains("'descr': '<f2'")
        let numbers = header.split(separator: "(").last?.split(separator: ")").first?.split(separator: ",").compactMap { Int($0.filter { $0 != " " }) } ?? []
        guard numbers.count == 2, numbers[1] == width, header.contains("'fortran_order': False"), half || header.contains("'descr': '<f4'"),
            numbers[0].multipliedReportingOverflow(by: width * (half ? 2 : 4)) == (bytes.count - start, false)
        else { throw wrong }
        (count, self.width, self.bytes) = (numbers[0], width, bytes)
    }

    /// Of these tokens, one after the other.
    func rows(_ tokens: [Int]) -> [Float] {
        bytes.withUnsafeBytes { raw in
            tokens.flatMap { token in
                (0..<width).map { place in
                    let at = token * width + place
                    return half
                        ? Self.float(UInt16(littleEndian: raw.loadUnaligned(fromByteOffset: start + 2 * at, as: UInt16.self)))
                        : Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: start + 4 * at, as: UInt32.self)))
                }
            }
        }
    }

    /// A float of 16 bits; macOS on Intel has no `Float16`.
    private static func float(_ bits: UInt16) -> Float {
        let (exponent, fraction) = (UInt32(bits >> 10) & 31, UInt32(bits & 1023))
        let sign = UInt32(bits >> 15) << 31
        switch exponent {
        case 0: return (sign == 0 ? 1 : -1) * Float(fraction) * 0x1p-24
        case 31: return Float(bitPattern: sign | 0x7F80_0000 | fraction << 13)
        default: return Float(bitPattern: sign | (exponent + 112) << 23 | fraction << 13)
        }
    }
}
