// SwiftUI and UIKit exist on Apple's systems only. Nothing in this file has been compiled by edgekit's tests, which run on
// Linux.

#if canImport(SwiftUI) && canImport(UIKit)
import AVFoundation
import EdgeKit
import PhotosUI
import SwiftUI

/// An app's one screen: a bundle on a camera or a picture, with its figures, its self-check and its benchmark.
public struct ModelScreen: View {
    @StateObject private var model: ScreenModel
    @State private var chosen: PhotosPickerItem?
    @Environment(\.scenePhase) private var phase

    /// - Parameters:
    ///   - bundle: The folder that `edgekit convert` wrote.
    ///   - engine: `CoreMLEngine()` or `ONNXRuntime()`.
    public init(bundle: URL, engine: any Engine) {
        _model = StateObject(wrappedValue: ScreenModel(folder: bundle, engine: engine))
    }

    public var body: some View {
        NavigationStack {
            List {
                Section {
                    stage.listRowInsets(EdgeInsets())
                    Text(model.status).accessibilityAddTraits(.updatesFrequently)
                    if let problem = model.problem { ProblemView(problem: problem) }
                    sources
                }
                if model.hasBoxes { settings }
                found
                speed
                proof
            }
            .navigationTitle(model.manifest?.name ?? "Opening the model")
            .navigationBarTitleDisplayMode(.inline)
        }
        .task { model.open() }
        .onChange(of: phase) { if $0 == .background { model.stop() } }
        .onChange(of: chosen) { item in
            Task { if let data = try? await item?.loadTransferable(type: Data.self) { model.look(at: data) } }
        }
    }

    private var stage: some View {
        ZStack {
            Color(.secondarySystemBackground)
            switch model.background {
            case .nothing: Text("Start the camera, or choose a picture.").foregroundStyle(.secondary).padding()
            case .camera: PreviewView(feed: model.feed)
            case .picture(let image): Image(uiImage: image).resizable().scaledToFit()
            }
            if let overlay = model.overlay {
                OverlayView(overlay: overlay).accessibilityElement().accessibilityLabel("What the model finds").accessibilityValue(model.status)
            }
        }
        .aspectRatio(ratio, contentMode: .fit)
    }

    private var ratio: CGFloat {
        guard let size = model.overlay?.size, size.height > 0 else { return 3.0 / 4 }
        return CGFloat(size.width) / CGFloat(size.height)
    }

    @ViewBuilder private var sources: some View {
        Button(model.isWatching ? "Stop camera" : "Start camera") { if model.isWatching { model.stop() } else { model.watch(model.side) } }
            .disabled(model.isBusy)
        if model.isWatching {
            Button(model.side == .back ? "Use front camera" : "Use back camera") { model.watch(model.side == .back ? .front : .back) }
        }
        PhotosPicker("Choose picture", selection: $chosen, matching: .images).disabled(model.isBusy)
        if model.hasExample { Button("Show example") { model.lookAtExample() }.disabled(model.isBusy) }
    }

    private var settings: some View {
        Section("Settings") {
            LabeledContent("Least score", value: model.score.formatted(.number.precision(.fractionLength(2))))
            Slider(value: $model.score, in: 0.05...0.95, step: 0.05) { Text("Least score") } onEditingChanged: { if !$0 { model.scoreChosen() } }
            Toggle("Track objects (ByteTrack)", isOn: $model.isTracking)
        }
    }

    private var found: some View {
        Section("Found") {
            if model.lines.isEmpty { Text("Nothing yet").foregroundStyle(.secondary) }
            ForEach(model.lines.prefix(12)) { line in
                HStack {
                    RoundedRectangle(cornerRadius: 3).fill(Color(line.colour)).frame(width: 12, height: 12).accessibilityHidden(true)
                    LabeledContent(line.name, value: line.figure)
                }
            }
        }
    }

    private var speed: some View {
        Section {
            LabeledContent("Prepare", value: shown(model.hud.prepare, "ms"))
            LabeledContent("Infer", value: shown(model.hud.infer, "ms"))
            LabeledContent("Decode", value: shown(model.hud.decode, "ms"))
            LabeledContent("Frames/s", value: shown(model.hud.framesPerSecond, ""))
            LabeledContent("Dropped", value: "\(model.dropped)")
            LabeledContent("Thermal state", value: model.thermal)
            LabeledContent("Runs on", value: model.placement.map { "\($0.unit), \($0.engine)" } ?? "–")
        } header: {
            Text("Speed")
        } footer: {
            Text("Medians of the last \(Hud.frames) frames.")
        }
    }

    private var proof: some View {
        Section {
            Button("Self-check") { model.selfCheck() }.disabled(model.isBusy || !model.hasExample)
            Button("Benchmark") { model.benchmark() }.disabled(model.isBusy)
            if let said = model.proof { Text(said) }
            if let record = model.record {
                ShareLink("Save \(record.file.lastPathComponent)", item: record.file)
                Text(record.command).font(.footnote.monospaced()).textSelection(.enabled)
            }
        } header: {
            Text("Proof")
        } footer: {
            Text("Each writes a file for edgekit. Everything stays on this device: the app sends nothing.")
        }
    }

    private func shown(_ value: Double?, _ unit: String) -> String {
        value.map { "\($0.formatted(.number.precision(.fractionLength(1)))) \(unit)" } ?? "–"
    }
}

/// What went wrong, and what to do.
struct ProblemView: View {
    let problem: Problem

    var body: some View {
        VStack(alignment: .leading) {
            Text(problem.title).bold().foregroundStyle(.red)
            Text(problem.text)
        }
    }
}

/// What the camera sees, turned as the screen is held; the front camera as a mirror shows it.
private struct PreviewView: UIViewRepresentable {
    let feed: CameraFeed

    func makeUIView(context: Context) -> PreviewLayerView {
        let view = PreviewLayerView()
        view.feed = feed
        view.preview.session = feed.session
        view.preview.videoGravity = .resizeAspect
        return view
    }

    func updateUIView(_ view: PreviewLayerView, context: Context) { view.setNeedsLayout() }
}

private final class PreviewLayerView: UIView {
    var feed: CameraFeed?

    override class var layerClass: AnyClass { AVCaptureVideoPreviewLayer.self }
    var preview: AVCaptureVideoPreviewLayer { layer as! AVCaptureVideoPreviewLayer }

    override func layoutSubviews() {
        super.layoutSubviews()
        guard let turned = window?.windowScene?.interfaceOrientation, let held = CameraTurn.Screen(rawValue: turned.rawValue) else { return }
        feed?.screen.withLock { $0 = held }
        preview.connection?.videoOrientation =
            switch held {
            case .portrait: .portrait
            case .portraitUpsideDown: .portraitUpsideDown
            case .landscapeRight: .landscapeRight
            case .landscapeLeft: .landscapeLeft
            }
    }
}

/// Draws an overlay over a frame that is shown whole.
public struct OverlayView: View {
    private let overlay: Overlay

    public init(overlay: Overlay) { self.overlay = overlay }

    public var body: some View {
        Canvas { context, size in
            let fitting = Fitting(overlay.size, inWidth: size.width, height: size.height)
            func point(_ at: Overlay.Point) -> CGPoint { CGPoint(x: fitting.x(at.x), y: fitting.y(at.y)) }
            for bitmap in overlay.bitmaps {
                guard let image = bitmap.image else { continue }
                let place = CGRect(
                    x: fitting.x(Float(bitmap.left)), y: fitting.y(Float(bitmap.top)), width: fitting.scale * Double(bitmap.width),
                    height: fitting.scale * Double(bitmap.height))
                context.draw(Image(decorative: image, scale: 1), in: place)
            }
            for item in overlay.items {
                var lines = Path()
                lines.addLines(item.outline.map(point))
                lines.closeSubpath()
                for bone in item.bones {
                    lines.move(to: point(bone.from))
                    lines.addLine(to: point(bone.to))
                }
                context.stroke(lines, with: .color(Color(item.colour)), lineWidth: 2.5)
                for keypoint in item.keypoints {
                    let (x, y) = (fitting.x(keypoint.x), fitting.y(keypoint.y))
                    context.fill(Path(ellipseIn: CGRect(x: x - 3.5, y: y - 3.5, width: 7, height: 7)), with: .color(.white))
                }
            }
            for item in overlay.items { tag(item, context, fitting, size) }
        }
    }

    private func tag(_ item: Overlay.Item, _ context: GraphicsContext, _ fitting: Fitting, _ size: CGSize) {
        guard let corner = item.outline.first else { return }
        let text = context.resolve(Text("\(item.caption) \(String(format: "%.2f", item.score))").font(.caption.bold()).foregroundColor(.black))
        let measured = text.measure(in: size)
        let left = max(0, min(fitting.x(corner.x), size.width - measured.width - 8))
        let above = fitting.y(corner.y) - measured.height - 4
        let place = CGRect(x: left, y: above >= 0 ? above : fitting.y(corner.y), width: measured.width + 8, height: measured.height + 4)
        context.fill(Path(place), with: .color(Color(item.colour)))
        context.draw(text, at: CGPoint(x: place.midX, y: place.midY))
    }
}

extension Color {
    fileprivate init(_ colour: Colour) { self.init(.sRGB, red: colour.red, green: colour.green, blue: colour.blue, opacity: colour.alpha) }
}
#endif
