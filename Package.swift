// swift-tools-version: 6.0
// The Swift runtime, here in the root because Swift's package manager looks for it nowhere else. See docs/SWIFT.md.

import PackageDescription

let sources = "platforms/swift/Sources"

let package = Package(
    name: "edgekit",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [
        .library(name: "EdgeKit", targets: ["EdgeKit"]),
        .library(name: "EdgeKitCoreML", targets: ["EdgeKitCoreML"]),
        .library(name: "EdgeKitONNX", targets: ["EdgeKitONNX"]),
        .library(name: "EdgeKitUI", targets: ["EdgeKitUI"]),
    ],
    targets: [
        .target(name: "EdgeKit", path: "\(sources)/EdgeKit"),
        .target(name: "EdgeKitCoreML", dependencies: ["EdgeKit"], path: "\(sources)/EdgeKitCoreML"),
        .systemLibrary(
            name: "COnnxRuntime", path: "\(sources)/COnnxRuntime", pkgConfig: "libonnxruntime",
            providers: [.apt(["libonnxruntime-dev"]), .brew(["onnxruntime"])]),
        .target(name: "EdgeKitONNX", dependencies: ["EdgeKit", "COnnxRuntime"], path: "\(sources)/EdgeKitONNX"),
        .target(name: "EdgeKitUI", dependencies: ["EdgeKit"], path: "\(sources)/EdgeKitUI"),
        .executableTarget(name: "benchmark", dependencies: ["EdgeKit"], path: "platforms/swift/Benchmark"),
        .testTarget(name: "EdgeKitTests", dependencies: ["EdgeKit", "EdgeKitONNX", "EdgeKitUI"], path: "platforms/swift/Tests/EdgeKitTests"),
    ],
    swiftLanguageModes: [.v6]
)
