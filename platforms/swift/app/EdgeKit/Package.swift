// swift-tools-version: 6.0
// EdgeKit as edgekit app ios copied it, with the one engine of this app.

import PackageDescription

let package = Package(
    name: "EdgeKit",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [
        .library(name: "EdgeKit", targets: ["EdgeKit"]),
        .library(name: "EdgeKitCoreML", targets: ["EdgeKitCoreML"]),
        .library(name: "EdgeKitUI", targets: ["EdgeKitUI"]),
    ],
    targets: [
        .target(name: "EdgeKit"),
        .target(name: "EdgeKitCoreML", dependencies: ["EdgeKit"]),
        .target(name: "EdgeKitUI", dependencies: ["EdgeKit"]),
    ],
    swiftLanguageModes: [.v6]
)
