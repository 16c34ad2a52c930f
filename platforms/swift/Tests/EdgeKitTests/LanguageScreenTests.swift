import Foundation
import Testing

@testable import EdgeKit
@testable import EdgeKitUI

/// `VisionLanguage` and the logic of its screen, with an engine of the test's own that says `a red circle`.
@MainActor
struct LanguageScreenTests {
    private let engine = Parrot()

    private func opened(_ engine: Parrot, family: String = "opt") async throws -> (LanguageScreenModel, URL) {
        let folder = try writeLanguageBundle(family)
        let screen = LanguageScreenModel(bundle: folder, engine: engine)
        screen.open()
        await screen.work?.value
        return (screen, folder)
    }

    private func picture(_ level: UInt8 = 128) throws -> Frame {
        try Frame(pixels: [UInt8](repeating: level, count: 3 * 64 * 32), width: 64, height: 32, format: .rgb)
    }

    @Test func aPictureIsDescribedAQuestionAnsweredAndThePictureRemembered() async throws {
        let (screen, folder) = try await opened(engine)
        defer { try? FileManager.default.removeItem(at: folder) }
        #expect(screen.state.name == "tiny" && screen.state.kind == .generation && screen.state.placement?.engine == "parrot")
        #expect(screen.state.status == "Ready. Choose a picture." && screen.state.isReady && screen.state.styles == ["caption", "short"])
        var answers: [String] = []
        screen.changed = { if $0.answer != answers.last { answers.append($0.answer) } }
        screen.look(at: try picture())
        #expect(screen.state.isBusy && !screen.state.isReady)
        screen.ask("is not heard meanwhile")
        await screen.work?.value
        #expect(answers == ["", "a", "a red", "a red circle"])
        #expect(screen.state.status == "Described." && screen.state.asked == "" && !screen.state.isBusy && !screen.state.isWriting)
        let times = screen.state.times
        let (seen, first, total) = (try #require(times.picture), try #require(times.first), try #require(times.total))
        #expect(seen > 0 && first > 0 && total >= seen + first)
        screen.ask("  red ")
        await screen.work?.value
        #expect(screen.state.asked == "red" && screen.state.answer == "a red circle" && screen.state.status == "Answered.")
        #expect(engine.looked.withLock { $0 } == 1)
        #expect(engine.prompts.withLock { $0 } == [2, 3])  // the image's two, and the question's one
        screen.ask(" \n")
        #expect(screen.work == nil)
        screen.look(at: try picture(7), style: "short")
        await screen.work?.value
        #expect(engine.looked.withLock { $0 } == 2)
        screen.describe(style: "long")
        await screen.work?.value
        #expect(screen.state.problem == Problem(EdgeKitError.usage("style 'long' is not one of: caption, short")))
    }

    @Test func aTextIsStoppedAndTheNextIsWritten() async throws {
        let slow = Parrot(milliseconds: 20, length: 500)
        let (screen, folder) = try await opened(slow)
        defer { try? FileManager.default.removeItem(at: folder) }
        screen.stop()  // nothing to stop
        screen.changed = { state in if state.answer == "a red" { screen.stop() } }
        screen.look(at: try picture())
        await screen.work?.value
        #expect(screen.state.status == "Stopped." && screen.state.answer.hasPrefix("a red") && screen.state.isReady && screen.state.problem == nil)
        screen.changed = { state in if state.answer == "a red circle" { screen.stop() } }
        screen.describe()
        await screen.work?.value
        #expect(screen.state.status == "Stopped." && screen.state.answer.hasPrefix("a red circle"))
    }

    @Test func aTextIsComparedWhereTheBundleIsForRetrieval() async throws {
        let (screen, folder) = try await opened(engine, family: "retrieval")
        defer { try? FileManager.default.removeItem(at: folder) }
        #expect(screen.state.isRetrieval && screen.state.styles.isEmpty)
        screen.look(at: try picture())
        await screen.work?.value
        #expect(screen.state.status == "Write a text to compare the picture with." && screen.state.answer == "")
        screen.ask("a red circle")
        await screen.work?.value
        #expect(screen.state.answer == "88 % that it fits (similarity 0.60)" && screen.state.status == "Compared." && screen.state.asked == "a red circle")
        #expect(engine.looked.withLock { $0 } == 1)
    }

    @Test func whatGoesWrongIsToldAndTheScreenGoesOn() async throws {
        let (screen, folder) = try await opened(engine)
        defer { try? FileManager.default.removeItem(at: folder) }
        screen.ask("red")
        await screen.work?.value
        #expect(screen.state.problem == Problem(EdgeKitError.input("there is no picture yet; choose one")) && screen.state.status == "Ready.")
        screen.look(at: try picture())
        #expect(screen.state.problem == nil)
        await screen.work?.value
        #expect(screen.state.answer == "a red circle")
        screen.complain(EdgeKitError.input("not a picture"))
        #expect(screen.state.problem?.title == "This picture cannot be used")
        let broken = try await opened(Parrot(logit: .nan))
        defer { try? FileManager.default.removeItem(at: broken.1) }
        broken.0.look(at: try picture())
        await broken.0.work?.value
        #expect(broken.0.state.problem?.title == "The engine cannot run this model here")
        let detector = try writeBundle()
        defer { try? FileManager.default.removeItem(at: detector) }
        let wrong = LanguageScreenModel(bundle: detector, engine: engine)
        wrong.open()
        await wrong.work?.value
        #expect(wrong.state.problem?.text.contains("no vision-language model") == true && !wrong.state.isReady && wrong.state.status == "There is no model.")
        wrong.describe()
        await wrong.work?.value
        #expect(wrong.state.problem?.title == "This does not work")
    }

    @Test func anEmptyTextIsSaidToBeOne() async throws {
        let (screen, folder) = try await opened(Parrot(length: 0))
        defer { try? FileManager.default.removeItem(at: folder) }
        screen.look(at: try picture())
        await screen.work?.value
        #expect(screen.state.answer == "The model says nothing." && screen.state.status == "Described.")
    }

    @Test func aModelDoesOneThingAtATimeAndNothingWhenItIsClosed() async throws {
        let folder = try writeLanguageBundle("opt")
        defer { try? FileManager.default.removeItem(at: folder) }
        let slow = Parrot(milliseconds: 50)
        let model = try await VisionLanguage.open(folder, engine: slow)
        let frame = try picture()
        async let first = model.caption(frame)
        while slow.looked.withLock({ $0 }) == 0 { try await Task.sleep(for: .milliseconds(2)) }
        await #expect(throws: EdgeKitError.busy("this model is busy: await its text, or end its stream, first")) { try await model.embed(image: frame) }
        #expect(try await first.text == "a red circle")
        #expect(try await model.embed(image: frame).shape == [1, 2, 4])
        await #expect(throws: EdgeKitError.self) { _ = try await model.match(frame, "a") }
        await model.close()
        await #expect(throws: EdgeKitError.closed("this model is closed: open it again with VisionLanguage.open(...)")) { try await model.embed(image: frame) }
    }
}

/// An engine whose language model says `a red circle` over and over, up to a length, and then an end token.
private final class Parrot: NetworkEngine {
    let opens = ["onnxruntime"]
    let target = "onnx"
    let milliseconds: Int
    let length: Int
    let logit: Float
    /// How often the vision model ran.
    let looked = Mutex(0)
    /// Tokens of each prompt.
    let prompts = Mutex<[Int]>([])

    init(milliseconds: Int = 0, length: Int = 3, logit: Float = 5) { (self.milliseconds, self.length, self.logit) = (milliseconds, length, logit) }

    func open(_ graph: Graph, of bundle: EdgeBundle) async throws -> any Session { throw EdgeKitError.engine("the parrot has no single graph") }

    func openNetwork(_ graph: Graph, of bundle: EdgeBundle) async throws -> any Network { ParrotNetwork(graph: graph, engine: self) }
}

private struct ParrotNetwork: Network {
    let graph: Graph
    let engine: Parrot
    var placement: Placement { Placement(unit: "cpu", engine: "parrot", reason: "a test") }
    private let said = Mutex(0)

    init(graph: Graph, engine: Parrot) { (self.graph, self.engine) = (graph, engine) }

    func run(_ feeds: [String: Tensor]) async throws -> [String: Tensor] {
        switch graph.name {
        case "vision": engine.looked.withLock { $0 += 1 }
        case "qformer", "text", "match": break
        default: return try await spoken(feeds)
        }
        if engine.milliseconds > 0 { try await Task.sleep(for: .milliseconds(engine.milliseconds)) }
        let features = Tensor([0.6, 0.8, 0, 0, 0, 0, 1, 0], shape: [1, 2, 4])
        return [
            "image_embeds": features, "language_inputs": features, "image_vectors": features, "text_vector": Tensor([1, 0, 0, 0], shape: [1, 4]),
            "logits": Tensor([1, 3], shape: [1, 2]),
        ]
    }

    private func spoken(_ feeds: [String: Tensor]) async throws -> [String: Tensor] {
        if engine.milliseconds > 0 { try await Task.sleep(for: .milliseconds(engine.milliseconds)) }
        let (rows, count) = (feeds["inputs_embeds"]!.shape[0], feeds["inputs_embeds"]!.shape[1])
        if count > 1 { engine.prompts.withLock { $0.append(count) } }
        let place = said.withLock { said -> Int in
            said = count > 1 ? 0 : said + 1
            return said
        }
        var logits = [Float](repeating: 0, count: 5)
        logits[place < engine.length ? 1 + place % 3 : 4] = engine.logit
        let all = Tensor((0..<rows).flatMap { _ in logits }, shape: [rows, 5])
        return ["logits": all, "present.0.key": feeds["past.0.key"]!, "present.0.value": feeds["past.0.value"]!]
    }

    func close() async {}
}

/// A vision-language bundle of five tokens whose graphs only the parrot runs.
private func writeLanguageBundle(_ family: String) throws -> URL {
    func graph(_ name: String, _ inputs: [String], _ outputs: [String], _ shape: String) -> String {
        func specs(_ names: [String]) -> String { names.map { #"{"name": "\#($0)", "shape": \#(shape)}"# }.joined(separator: ", ") }
        return #"{"name": "\#(name)", "files": ["model.onnx"], "inputs": [\#(specs(inputs))], "outputs": [\#(specs(outputs))]}"#
    }
    let seeing = [graph("vision", ["pixel_values"], ["image_embeds"], "[1, 2, 4]"), graph("qformer", ["image_embeds"], ["language_inputs"], "[1, 2, 4]")]
    let past = #"{"name": "past.0.key", "shape": [-1, 1, -1, 2]}, {"name": "past.0.value", "shape": [-1, 1, -1, 2]}"#
    let speaking = [
        #"{"name": "language", "files": ["model.onnx"], "inputs": [\#(past), {"name": "seqlens", "shape": [-1]}], "outputs": [{"name": "logits", "shape": [-1, 5]}]}"#
    ]
    let comparing = [graph("text", ["input_ids"], ["text_vector"], "[1, 4]"), graph("match", ["image_embeds"], ["logits"], "[1, 2]")]
    let prompts = family == "retrieval" ? "{}" : #"{"caption": "", "short": "", "ask": "{}"}"#
    let language = #"""
        {"family": "\#(family)", "queries": 2, "image": 0, "pad": 0, "start": 0, "eos": [4], "layers": 1, "heads": 1, "head_size": 2, "width": 4,
         "prompts": \#(prompts), "generation": {"max_new_tokens": 600, "beams": \#(family == "opt" ? 2 : 1)}}
        """#
    let tokenizer = """
        {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1, "red": 2, "circle": 3, "</s>": 4}, "unk_token": "[UNK]",
         "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}, "pre_tokenizer": {"type": "WhitespaceSplit"}, "added_tokens": []}
        """
    var header = "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 4), }"
    header += String(repeating: " ", count: 117 - header.utf8.count) + "\n"
    let embeddings = [0x93] + Array("NUMPY".utf8) + [1, 0, 118, 0] + Array(header.utf8) + [UInt8](repeating: 0, count: 4 * 20)
    return try writeBundle(
        ["graphs": "[\((seeing + (family == "retrieval" ? comparing : speaking)).joined(separator: ", "))]"], contract: ["language": language],
        files: ["tokenizer.json": Array(tokenizer.utf8), "embeddings.npy": embeddings])
}
