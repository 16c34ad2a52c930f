// swift-tools-version: 6.0
// EdgeKit as edgekit app ios copied it, with the one engine of this app. Put onnxruntime.xcframework, of ONNX Runtime's release
// for iOS (the archive onnxruntime-c), beside this file.

import PackageDescription

let package = Package(
    name: "EdgeKit",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [
        .library(name: "EdgeKit", targets: ["EdgeKit"]),
        .library(name: "EdgeKitONNX", targets: ["EdgeKitONNX"]),
        .library(name: "EdgeKitUI", targets: ["EdgeKitUI"]),
    ],
    targets: [
        .target(name: "EdgeKit"),
        .binaryTarget(name: "onnxruntime", path: "onnxruntime.xcframework"),
        .target(name: "COnnxRuntime", dependencies: ["onnxruntime"], path: "COnnxRuntime", linkerSettings: [.linkedLibrary("c++")]),
        .target(name: "EdgeKitONNX", dependencies: ["EdgeKit", "COnnxRuntime"]),
        .target(name: "EdgeKitUI", dependencies: ["EdgeKit"]),
    ],
    swiftLanguageModes: [.v6]
)
