import Foundation

/// A generated text.
public struct GeneratedText: Sendable {
    public let text: String
    /// What it continues or answers.
    public let prompt: String
    /// Sum of the tokens' log-probabilities by `length ** lengthPenalty`.
    public let score: Float
    public let tokens: [Int]
    /// With `returned` above 1 the further texts, the best first, with their tokens.
    public let others: [(text: String, score: Float, tokens: [Int])]
    /// Milliseconds of the image, which is remembered, and of the text.
    public let timings: (vision: Double, text: Double)
}

/// How well a text fits an image: that it belongs to it (0 to 1), and the cosine of its vector and the nearest of the image's.
public struct TextMatch: Sendable {
    public let text: String
    public let probability: Double
    public let similarity: Double
}

/// A BLIP-2, opened: `caption`, `ask` and `stream`, or `embed(text:)` and `match`. It does one thing at a time.
public actor VisionLanguage {
    /// What a bundle is for: captions and answers, or matches of images and texts.
    public enum Kind: String, Sendable, Hashable { case generation, retrieval }

    public nonisolated let manifest: Manifest
    /// Generation options of the bundle.
    public nonisolated let defaults: GenerationOptions
    public nonisolated let kind: Kind
    /// What captions can be asked for as their `style`: `caption`, `short`, `detailed`.
    public nonisolated let styles: [String]
    /// What runs where, and why.
    public nonisolated let placement: Placement
    private let language: Language
    private let networks: [String: any Network]
    private let tokenizer: Tokenizer
    private let embeddings: Embeddings?
    private let graph: (any LanguageGraph)?
    private var preprocessor: Preprocessor
    /// The last image that was looked at, and what was seen in it.
    private var known: (pixels: Tensor, features: Features)?
    private var isRunning = false
    private var isClosed = false

    private static let parts = ["opt": ["vision", "qformer", "language"], "t5": ["vision", "qformer", "encoder", "decoder"], "retrieval": ["vision", "qformer", "text", "match"]]

    private init(_ bundle: EdgeBundle, _ language: Language, _ networks: [String: any Network]) throws {
        manifest = bundle.manifest
        (self.language, self.networks, defaults) = (language, networks, language.generation)
        (kind, placement) = (language.isRetrieval ? .retrieval : .generation, networks["vision"]!.placement)
        styles = language.prompts.keys.filter { $0 != "ask" }.sorted()
        tokenizer = try Tokenizer(VisionLanguage.guarded(bundle, "tokenizer.json"))
        preprocessor = Preprocessor(manifest.contract.image)
        if language.isRetrieval {
            (embeddings, graph) = (nil, nil)
            return
        }
        let found = try Embeddings(VisionLanguage.guarded(bundle, "embeddings.npy"), width: language.width)
        let decoder = try CachedDecoder(networks["language"] ?? networks["decoder"]!, language)
        let vocabulary = decoder.vocabulary
        for token in [vocabulary - 1, language.pad, language.start] where token >= found.count {
            throw EdgeKitError.bundle(.invalid, "token \(token) is none of embeddings.npy, which has \(found.count) rows; convert the model again")
        }
        embeddings = found
        graph = networks["encoder"].map { T5Graph($0, decoder, found, start: language.start) } ?? OptGraph(decoder, found)
    }

    /// Open a bundle of the targets onnx and web. All hashes are checked.
    ///
    /// - Throws: `EdgeKitError.bundle`: damaged, altered or too new, or parts are missing. `.engine`: the engine refuses a file.
    ///   `.usage`: no vision-language model, or a bundle of another engine. `CancellationError`.
    public static func open(_ folder: URL, engine: any NetworkEngine) async throws -> VisionLanguage {
        let bundle = try EdgeBundle(opening: folder)
        let manifest = bundle.manifest
        guard let language = manifest.contract.language else {
            throw EdgeKitError.usage("\(manifest.name) is a \(manifest.contract.task) model and no vision-language model; open it with EdgeModel.open(...)")
        }
        var networks: [String: any Network] = [:]
        for name in parts[language.family]! {
            try Task.checkCancellation()
            guard let graph = manifest.graphs.first(where: { $0.name == name }) else {
                throw EdgeKitError.bundle(.invalid, "\(manifest.name): no graph '\(name)'; convert the model again")
            }
            let own = graph.engine ?? manifest.engine
            if !engine.opens.contains(own) {
                throw EdgeKitError.usage("\(manifest.name): its \(name) is for the engine \(own); convert the model with --target \(engine.target)")
            }
            networks[name] = try await engine.openNetwork(graph, of: bundle)
        }
        return try VisionLanguage(bundle, language, networks)
    }

    /// Describe an image. `style` is one of the contract's prompts (`short`, `detailed`), `prompt` a text that is continued instead.
    ///
    /// - Throws: `EdgeKitError.usage`: a retrieval bundle, no such style, an option out of range, a prompt that is too long. `.busy`,
    ///   `.closed`. `.engine`: an engine failed, or gave something unusable. `CancellationError`.
    public func caption(_ image: Frame, prompt: String? = nil, style: String? = nil, options: GenerationOptions? = nil) async throws -> GeneratedText {
        try await written(image, try captionPrompt(prompt, style), options)
    }

    /// Answer a question about an image; the contract says how it is asked. Throws as `caption`.
    public func ask(_ image: Frame, _ question: String, options: GenerationOptions? = nil) async throws -> GeneratedText {
        try await written(image, questionPrompt(question), options)
    }

    /// The pieces of one text as they are made: together `caption`'s, or `ask`'s with `question`, with the spaces around it.
    ///
    /// The model is busy until the stream ends, also by `break` or a cancelled task. Throws as `caption`; beams cannot be streamed.
    public nonisolated func stream(
        _ image: Frame, question: String? = nil, prompt: String? = nil, style: String? = nil, options: GenerationOptions? = nil
    ) -> AsyncThrowingStream<String, any Error> {
        AsyncThrowingStream { continuation in
            let task = Task {
                do {
                    try await self.write(image, question: question, prompt: prompt, style: style, options: options) { continuation.yield($0) }
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    /// What the next stage reads of an image (1, tokens, width); the image is remembered, and known to the next text or match.
    ///
    /// - Throws: `EdgeKitError.busy`, `.closed`. `.engine`: an engine failed, or gave something unusable. `CancellationError`.
    @discardableResult
    public func embed(image: Frame) async throws -> Tensor {
        try begin()
        defer { isRunning = false }
        return try await features(image).projected
    }

    /// The vector of a text, of length 1.
    public func embed(text: String) async throws -> [Float] {
        try retrieving("embed(text:)")
        try begin()
        defer { isRunning = false }
        return try await vector(text)
    }

    /// How well a text fits an image.
    public func match(_ image: Frame, _ text: String) async throws -> TextMatch {
        try retrieving("match")
        try begin()
        defer { isRunning = false }
        let (vision, projected) = try await features(image)
        let vector = try await vector(text)
        var feeds = try ids(text)
        feeds["image_embeds"] = vision
        let logits = try output(try await networks["match"]!.run(feeds), "logits", [1, 2]).data
        let cosines = stride(from: 0, to: projected.data.count, by: vector.count).map { start in
            zip(projected.data[start...], vector).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
        }
        let away = min(max(Double(logits[0] - logits[1]), -700), 700)
        return TextMatch(text: text, probability: 1 / (1 + exp(away)), similarity: cosines.max() ?? 0)
    }

    /// Let go of the engines and their memory; what is called afterwards throws `EdgeKitError.closed`.
    public func close() async {
        if isClosed { return }
        (isClosed, known) = (true, nil)
        for network in networks.values { await network.close() }
    }

    private func begin() throws {
        if isClosed { throw EdgeKitError.closed("this model is closed: open it again with VisionLanguage.open(...)") }
        if isRunning { throw EdgeKitError.busy("this model is busy: await its text, or end its stream, first") }
        try Task.checkCancellation()
        isRunning = true
    }

    private func written(_ image: Frame, _ prompt: String, _ given: GenerationOptions?) async throws -> GeneratedText {
        let options = try checked(given)
        try begin()
        defer { isRunning = false }
        let clock = ContinuousClock()
        let begun = clock.now
        let ready = try self.prompt(try await features(image).projected, prompt, options)
        let seen = clock.now
        let tokenizer = self.tokenizer
        let stop = options.stop.map { Array($0.utf8) }
        let ends: Stopped = { (tokens: [Int]) -> Bool in
            let text = Array(tokenizer.decode(tokens).utf8)
            return cut(text, stop).count != text.count
        }
        let stopped = stop.isEmpty ? nil : ends
        let texts = try await generate(graph!, ready, options, stopped: stopped).map { one -> (text: String, score: Float, tokens: [Int]) in
            let words = Array(tokenizer.decode(one.tokens.filter { !language.eos.contains($0) }).utf8)
            let text = String(decoding: cut(words, stop), as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
            return (text: text, score: one.score, tokens: one.tokens)
        }
        return GeneratedText(
            text: texts[0].text, prompt: prompt, score: texts[0].score, tokens: texts[0].tokens, others: Array(texts.dropFirst()),
            timings: (milliseconds(seen - begun), milliseconds(clock.now - seen)))
    }

    /// As `stream`, and back when the model is free again.
    package func write(
        _ image: Frame, question: String? = nil, prompt: String? = nil, style: String? = nil, options given: GenerationOptions? = nil,
        piece: @Sendable (String) async -> Void
    ) async throws {
        if question != nil && (prompt != nil || style != nil) { throw EdgeKitError.usage("stream takes a question, or a prompt or a style, not both") }
        let text = try question.map { try questionPrompt($0) } ?? captionPrompt(prompt, style)
        let options = try checked(given)
        if options.beams > 1 || options.returned > 1 {
            throw EdgeKitError.usage("beams=\(options.beams), returned=\(options.returned) cannot be streamed: no token is final before the end; take 1")
        }
        try begin()
        defer { isRunning = false }
        let ready = try self.prompt(try await features(image).projected, text, options)
        var (stepwise, decoder, cutter) = (Stepwise(graph!, ready, options), tokenizer.pieces(), Cutter(options.stop))
        while !cutter.ended, let token = try await stepwise.next()?[0]?.token, !language.eos.contains(token) {
            try Task.checkCancellation()
            let found = cutter.add(try decoder.add(token) ?? "")
            if !found.isEmpty { await piece(found) }
        }
        if !cutter.rest.isEmpty { await piece(cutter.rest) }
    }

    private func checked(_ given: GenerationOptions?) throws -> GenerationOptions {
        let options = given ?? defaults
        try options.check()
        return options
    }

    private func captionPrompt(_ prompt: String?, _ style: String?) throws -> String {
        try generating()
        if let prompt, let style { throw EdgeKitError.usage("prompt '\(prompt)' and style '\(style)' say the same thing twice; leave one out") }
        if let prompt { return prompt }
        if let style, !styles.contains(style) { throw EdgeKitError.usage("style \(choices(style, styles))") }
        return language.prompts[style ?? "caption"] ?? ""
    }

    private func questionPrompt(_ question: String) throws -> String {
        try generating()
        let asked = language.prompts["ask"] ?? "Question: {} Answer:"
        guard let place = asked.range(of: "{}") else { return asked }
        return asked.replacingCharacters(in: place, with: question)
    }

    private func prompt(_ image: Tensor, _ text: String, _ options: GenerationOptions) throws -> Prompt {
        let (queries, width) = (language.queries, language.width)
        guard image.data.count == queries * width else {
            throw EdgeKitError.bundle(.invalid, "the Q-Former gives \(image.shown) for an image, the contract says (\(queries), \(width)); convert the model again")
        }
        let ids = try tokenizer.encode(text)
        if ids.contains(language.image) { throw EdgeKitError.usage("prompt '\(text)' holds the image's placeholder, which is put there anyway") }
        if let beyond = ids.first(where: { $0 >= embeddings!.count }) {
            throw EdgeKitError.bundle(.invalid, "the tokenizer gave token \(beyond), embeddings.npy has \(embeddings!.count): convert the model again")
        }
        let total = ids.count + queries + options.maxNewTokens
        if language.positions > 0 && total > language.positions {
            throw EdgeKitError.usage(
                "prompt of \(ids.count) tokens, \(queries) of the image and maxNewTokens=\(options.maxNewTokens) are \(total), the model takes "
                    + "\(language.positions): shorten the prompt or lower maxNewTokens")
        }
        // The penalties of T5 read what its decoder begins with, not the encoder's prompt.
        let read = language.family == "t5" ? [language.start] : Array(repeating: language.image, count: queries) + ids
        let tensor = Tensor(image.data + embeddings!.rows(ids), shape: [1, queries + ids.count, width])
        return Prompt(embeddings: tensor, ids: read, eos: language.eos, pad: language.pad)
    }

    private typealias Features = (vision: Tensor, projected: Tensor)

    private func features(_ image: Frame) async throws -> Features {
        let pixels = preprocessor.run(image.upright).tensor
        if let known, known.pixels.data == pixels.data { return known.features }
        let vision = try output(try await networks["vision"]!.run(["pixel_values": pixels]), "image_embeds", [1, nil, nil])
        let made = try await networks["qformer"]!.run(["image_embeds": vision])
        let found: Features = (vision, try output(made, language.isRetrieval ? "image_vectors" : "language_inputs", [1, nil, nil]))
        known = (pixels, found)
        return found
    }

    private func ids(_ text: String) throws -> [String: Tensor] {
        let ids = try tokenizer.encode(text)
        if language.positions > 0 && ids.count > language.positions {
            throw EdgeKitError.usage("text '\(text)': \(ids.count) tokens, the model takes \(language.positions); shorten it")
        }
        return ["input_ids": Tensor(ids.map(Float.init), shape: [1, ids.count]), "attention_mask": Tensor(ids.map { _ in 1 }, shape: [1, ids.count])]
    }

    private func vector(_ text: String) async throws -> [Float] {
        try output(try await networks["text"]!.run(try ids(text)), "text_vector", [1, nil]).data
    }

    private func generating() throws {
        if language.isRetrieval { throw EdgeKitError.usage("this is a retrieval bundle (match, embed(text:)); texts need one of BLIP-2 with OPT or T5") }
    }

    private func retrieving(_ method: String) throws {
        if !language.isRetrieval { throw EdgeKitError.usage("\(method) needs a retrieval bundle (BLIP-2 for image-text matching); this one writes texts") }
    }

    private static func guarded(_ bundle: EdgeBundle, _ name: String) throws -> [UInt8] {
        guard bundle.lists(name) else {
            throw EdgeKitError.bundle(.invalid, "\(bundle.manifest.name): no '\(name)' that the manifest lists; convert the model again")
        }
        return try bundle.read(name)
    }
}

/// One output of a network, nil in `shape` is any size.
private func output(_ given: [String: Tensor], _ name: String, _ shape: [Int?]) throws -> Tensor {
    guard let found = given[name], found.shape.count == shape.count, zip(shape, found.shape).allSatisfy({ $0 == nil || $0 == $1 }) else {
        throw EdgeKitError.engine("a graph gave \(given[name].map { "'\(name)' of shape \($0.shown)" } ?? "no '\(name)'"); convert the model again")
    }
    if !found.data.allSatisfy(\.isFinite) { throw EdgeKitError.engine("a graph gave '\(name)' with NaN or infinite numbers: try a higher precision") }
    return found
}
