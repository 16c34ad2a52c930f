// SwiftUI and UIKit exist on Apple's systems only. Nothing in this file has been compiled by edgekit's tests, which run on
// Linux; what it does is in LanguageScreenModel, which is.

#if canImport(SwiftUI) && canImport(UIKit)
import EdgeKit
import PhotosUI
import SwiftUI
import UIKit

/// An app's one screen around a vision-language model: a picture, what the model says of it, and how well a text fits.
public struct LanguageScreen: View {
    @StateObject private var screen: Observed
    @State private var chosen: PhotosPickerItem?
    @State private var picture: UIImage?
    @State private var isTaking = false
    @State private var style = "caption"
    @State private var question = ""
    @Environment(\.scenePhase) private var phase

    /// - Parameters:
    ///   - bundle: The folder that `edgekit convert` wrote.
    ///   - engine: `ONNXRuntime()`.
    public init(bundle: URL, engine: any NetworkEngine) {
        _screen = StateObject(wrappedValue: Observed(LanguageScreenModel(bundle: bundle, engine: engine)))
    }

    private var state: LanguageScreenModel.State { screen.state }
    private var model: LanguageScreenModel { screen.model }
    private var wanted: String? { state.styles.contains(style) ? style : nil }

    public var body: some View {
        NavigationStack {
            List {
                Section {
                    stage.listRowInsets(EdgeInsets())
                    Text(state.status).accessibilityAddTraits(.updatesFrequently)
                    if let problem = state.problem { ProblemView(problem: problem) }
                    sources
                }
                if state.kind == .generation { caption }
                asking
                answer
                speed
            }
            .navigationTitle(state.name ?? "Opening the model")
            .navigationBarTitleDisplayMode(.inline)
        }
        .task { model.open() }
        .onChange(of: phase) { if $0 == .background { model.stop() } }
        .onChange(of: chosen) { item in
            Task { if let data = try? await item?.loadTransferable(type: Data.self) { look(at: UIImage(data: data)) } }
        }
        .fullScreenCover(isPresented: $isTaking) {
            Shutter { image in
                isTaking = false
                if let image { look(at: image) }
            }
            .ignoresSafeArea()
        }
    }

    private func look(at image: UIImage?) {
        guard state.isReady else { return }
        do {
            model.look(at: try Frame(image: image), style: wanted)
            picture = image
        } catch {
            model.complain(error)
        }
    }

    private var stage: some View {
        ZStack {
            Color(.secondarySystemBackground)
            if let picture {
                Image(uiImage: picture).resizable().scaledToFit().accessibilityLabel("The picture")
            } else {
                Text("Choose a picture.").foregroundStyle(.secondary).padding()
            }
        }
        .aspectRatio(picture.map { $0.size.width / max($0.size.height, 1) } ?? 4.0 / 3, contentMode: .fit)
    }

    @ViewBuilder private var sources: some View {
        PhotosPicker("Choose picture", selection: $chosen, matching: .images).disabled(!state.isReady)
        if UIImagePickerController.isSourceTypeAvailable(.camera) {
            Button("Take picture") { isTaking = true }.disabled(!state.isReady)
        }
    }

    private var caption: some View {
        Section("Caption") {
            if state.styles.count > 1 {
                Picker("Kind of caption", selection: $style) {
                    ForEach(state.styles, id: \.self) { Text($0).tag($0) }
                }
            }
            Button("Describe the picture") { model.describe(style: wanted) }.disabled(!state.isReady)
        }
    }

    private var asking: some View {
        Section(state.isRetrieval ? "Match" : "Question") {
            TextField(state.isRetrieval ? "A text that may fit the picture" : "What do you want to know of the picture?", text: $question)
                .submitLabel(.send)
                .onSubmit { model.ask(question) }
            Button(state.isRetrieval ? "Compare" : "Ask") { model.ask(question) }.disabled(!state.isReady)
        }
    }

    private var answer: some View {
        Section("Answer") {
            if !state.asked.isEmpty { Text(state.asked).foregroundStyle(.secondary) }
            if state.answer.isEmpty {
                Text("Nothing yet").foregroundStyle(.secondary)
            } else {
                Text(state.answer).textSelection(.enabled).accessibilityAddTraits(.updatesFrequently)
            }
            if state.isWriting { Button("Stop", role: .cancel) { model.stop() } }
        }
    }

    private var speed: some View {
        Section {
            LabeledContent("Picture", value: shown(state.times.picture))
            LabeledContent("First piece", value: shown(state.times.first))
            LabeledContent("In all", value: shown(state.times.total))
            LabeledContent("Runs on", value: state.placement.map { "\($0.unit), \($0.engine)" } ?? "–")
        } header: {
            Text("Time")
        } footer: {
            Text("A picture that was looked at is remembered. Everything stays on this device: the app sends nothing.")
        }
    }

    private func shown(_ value: Double?) -> String {
        guard let value else { return "–" }
        return value < 1000 ? String(format: "%.0f ms", value) : String(format: "%.1f s", value / 1000)
    }
}

/// The model's state where SwiftUI sees it change.
@MainActor
private final class Observed: ObservableObject {
    @Published private(set) var state: LanguageScreenModel.State
    let model: LanguageScreenModel

    init(_ model: LanguageScreenModel) {
        self.model = model
        state = model.state
        model.changed = { [weak self] in self?.state = $0 }
    }
}

/// The system's camera, for one picture; nil where none was taken.
private struct Shutter: UIViewControllerRepresentable {
    let done: @MainActor (UIImage?) -> Void

    func makeUIViewController(context: Context) -> UIImagePickerController {
        let controller = UIImagePickerController()
        controller.sourceType = .camera
        controller.delegate = context.coordinator
        return controller
    }

    func updateUIViewController(_ controller: UIImagePickerController, context: Context) {}

    func makeCoordinator() -> Coordinator { Coordinator(done) }

    @MainActor
    final class Coordinator: NSObject, UIImagePickerControllerDelegate, UINavigationControllerDelegate {
        private let done: @MainActor (UIImage?) -> Void

        init(_ done: @escaping @MainActor (UIImage?) -> Void) { self.done = done }

        func imagePickerController(_ picker: UIImagePickerController, didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any]) {
            done(info[.originalImage] as? UIImage)
        }

        func imagePickerControllerDidCancel(_ picker: UIImagePickerController) { done(nil) }
    }
}
#endif
