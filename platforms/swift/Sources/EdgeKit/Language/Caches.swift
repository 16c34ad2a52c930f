/// Keys and values of the tokens so far, kept between the runs of a decoder. All rows are of one prompt and equally long.
///
/// A graph of the target onnx appends to the cache (GroupQueryAttention): what comes out goes in with the next token. One of the
/// target web reads it and gives the new keys and values alone.
final class CachedDecoder: @unchecked Sendable {  // one text is made at a time
    private(set) var rows = 1
    /// Tokens of every row.
    private(set) var used = 0
    private let network: any Network
    private let language: Language
    private let isHosted: Bool
    private let names: [String]
    /// (rows, heads, capacity, size) each.
    private var buffers: [String: [Float]] = [:]
    private var capacity = 0

    /// Tokens that buffers have room for beyond what is there.
    private static let room = 64
    /// What is added to the score of a key that may not be looked at.
    private static let hidden: Float = -1e4

    /// - Throws: `EdgeKitError.engine`: the graph takes neither kind of cache, or one of another size.
    init(_ network: any Network, _ language: Language) throws {
        let inputs = network.graph.inputs
        let taken = Set(inputs.map(\.name))
        isHosted = taken.isSuperset(of: ["mask", "pick"])
        let pasts = inputs.filter { $0.name.hasPrefix("past.") }
        let fits = pasts.count == 2 * language.layers && pasts.allSatisfy { $0.shape.count == 4 && $0.shape[1] == language.heads && $0.shape[3] == language.headSize }
        if !fits || !(isHosted || taken.contains("seqlens")) {
            throw EdgeKitError.engine(
                "graph '\(network.graph.name)' takes \(inputs.map(\.name).joined(separator: ", ")), and no cache of \(language.layers) layers with "
                    + "\(language.heads) heads of \(language.headSize) numbers that this package keeps; convert with --target onnx or web")
        }
        (self.network, self.language) = (network, language)
        names = (0..<language.layers).flatMap { ["\($0).key", "\($0).value"] }
    }

    /// How many tokens the graph chooses among, as the manifest says.
    var vocabulary: Int { network.graph.outputs.first { $0.name == "logits" }?.shape.last ?? 0 }

    /// Forget everything; there is one row.
    func begin(_ tokens: Int) {
        (rows, used, capacity) = (1, 0, tokens + CachedDecoder.room)
        for name in names { buffers[name] = [Float](repeating: 0, count: language.heads * capacity * language.headSize) }
    }

    /// Keep these rows, in this order.
    func select(_ chosen: [Int]) { rearrange(chosen, capacity) }

    private func rearrange(_ chosen: [Int], _ room: Int) {
        let (heads, size) = (language.heads, language.headSize)
        for (name, old) in buffers {
            var made = [Float](repeating: 0, count: chosen.count * heads * room * size)
            for (i, row) in chosen.enumerated() {
                for head in 0..<heads {
                    let (from, to) = ((row * heads + head) * capacity * size, (i * heads + head) * room * size)
                    made.replaceSubrange(to..<to + used * size, with: old[from..<from + used * size])
                }
            }
            buffers[name] = made
        }
        (rows, capacity) = (chosen.count, room)
    }

    /// Append tokens (rows, tokens, width) to every row; logits (rows, vocabulary) behind the last.
    func read(_ embeddings: Tensor, _ feeds: [String: Tensor]) async throws -> Tensor {
        let count = embeddings.shape[1]
        if used + count > capacity { rearrange(Array(0..<rows), max(2 * capacity, used + count)) }
        var given = feeds
        given["inputs_embeds"] = embeddings
        let shape = [rows, language.heads, capacity, language.headSize]
        for name in names { given["past.\(name)"] = Tensor(buffers[name]!, shape: shape) }
        if isHosted {
            given["mask"] = mask(count)
            given["pick"] = Tensor((0..<rows * count).map { $0 % count == count - 1 ? 1 : 0 }, shape: [rows, 1, count])
            // Key less query, for the one token that such a decoder reads.
            given["distances"] = given["distances"] ?? Tensor((0..<capacity).map { Float($0 - used) } + [0], shape: [1, capacity + 1])
        } else {
            func each(_ value: Int) -> Tensor { Tensor([Float](repeating: Float(value), count: rows), shape: [rows]) }
            given["last"] = each(count - 1)
            given["seqlens"] = each(used + count - 1)
            given["total"] = Tensor([Float(used + count)], shape: [])
        }
        let found = try await network.run(given)
        for name in names {
            let new = found["present.\(name)"]
            let wanted = isHosted ? [rows, language.heads, count, language.headSize] : shape
            guard let new, new.shape == wanted else {
                throw EdgeKitError.engine("the language graph gave 'present.\(name)' of shape \(new?.shown ?? "none"), not \(wanted); convert again")
            }
            if isHosted { append(new.data, count, name) } else { buffers[name] = new.data }
        }
        used += count
        guard let logits = found["logits"] else { throw EdgeKitError.engine("the language graph gave no 'logits'; convert the model again") }
        return logits
    }

    private func append(_ data: [Float], _ count: Int, _ name: String) {
        let size = language.headSize
        for head in 0..<rows * language.heads {
            let to = (head * capacity + used) * size
            buffers[name]!.replaceSubrange(to..<to + count * size, with: data[head * count * size..<(head + 1) * count * size])
        }
    }

    /// 0 where a token may look: at all that is in the cache, at itself and the new ones before it.
    private func mask(_ count: Int) -> Tensor {
        let wide = capacity + count
        var mask = [Float](repeating: CachedDecoder.hidden, count: rows * count * wide)
        for line in 0..<rows * count {
            for key in 0..<used { mask[line * wide + key] = 0 }
            for key in 0...line % count { mask[line * wide + capacity + key] = 0 }
        }
        return Tensor(mask, shape: [rows, 1, count, wide])
    }
}

/// OPT: one graph, `language`.
final class OptGraph: LanguageGraph {
    private let decoder: CachedDecoder
    private let embeddings: Embeddings

    init(_ decoder: CachedDecoder, _ embeddings: Embeddings) { (self.decoder, self.embeddings) = (decoder, embeddings) }

    func start(_ embeddings: Tensor) async throws -> Tensor {
        let count = embeddings.shape[1]
        decoder.begin(count)
        return try await decoder.read(embeddings, ["position_ids": Tensor((0..<count).map(Float.init), shape: [1, count])])
    }

    func step(_ tokens: [Int]) async throws -> Tensor {
        let places = Tensor(tokens.map { _ in Float(decoder.used) }, shape: [tokens.count, 1])
        return try await decoder.read(Tensor(embeddings.rows(tokens), shape: [tokens.count, 1, embeddings.width]), ["position_ids": places])
    }

    func select(_ rows: [Int]) async { decoder.select(rows) }
}

/// T5: `encoder` and `decoder`.
final class T5Graph: LanguageGraph, @unchecked Sendable {  // one text is made at a time
    private let encoder: any Network
    private let decoder: CachedDecoder
    private let embeddings: Embeddings
    private let begin: Int
    /// What the encoder found, of one row, and the same for every row.
    private var seen: [String: Tensor] = [:]
    private var looked: [String: Tensor] = [:]

    init(_ encoder: any Network, _ decoder: CachedDecoder, _ embeddings: Embeddings, start: Int) {
        (self.encoder, self.decoder, self.embeddings, begin) = (encoder, decoder, embeddings, start)
    }

    func start(_ embeddings: Tensor) async throws -> Tensor {
        let count = embeddings.shape[1]
        // A mask of 1 where there is a token, or of what is added to the scores: there is no padding.
        let isOne = encoder.graph.inputs.contains { $0.name == "attention_mask" }
        let mask = isOne
            ? Tensor([Float](repeating: 1, count: count), shape: [1, count]) : Tensor([Float](repeating: 0, count: count), shape: [1, 1, 1, count])
        let away = (0..<count).flatMap { query in (0..<count).map { Float($0 - query) } }
        seen = try await encoder.run([
            "inputs_embeds": embeddings, "attention_mask": mask, "mask": mask, "distances": Tensor(away, shape: [count, count]),
        ])
        seen["encoder_mask"] = mask
        looked = seen
        decoder.begin(1)
        return try await step([begin])
    }

    func step(_ tokens: [Int]) async throws -> Tensor {
        try await decoder.read(Tensor(embeddings.rows(tokens), shape: [tokens.count, 1, embeddings.width]), looked)
    }

    func select(_ rows: [Int]) async {
        let before = decoder.rows
        decoder.select(rows)
        if rows.count == before { return }
        looked = seen.mapValues { one in Tensor(rows.flatMap { _ in one.data }, shape: [rows.count] + one.shape.dropFirst()) }
    }
}
