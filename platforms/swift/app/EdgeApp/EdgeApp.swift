import EdgeKitCoreML
import EdgeKitUI
import SwiftUI

/// The app: one screen around the bundle in the folder `model`. The screen is EdgeKitUI's; write your own over EdgeKit where
/// you want another.
@main
struct EdgeApp: App {
    nonisolated static let model = Bundle.main.bundleURL.appendingPathComponent("model")

    var body: some Scene {
        WindowGroup { ModelScreen(bundle: EdgeApp.model, engine: CoreMLEngine()) }
    }
}
