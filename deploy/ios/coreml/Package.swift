// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "EdgeModel", platforms: [.iOS(.v16), .macOS(.v13)],
    products: [.library(name: "EdgeModel", targets: ["EdgeCore", "EdgeRuntime"])],
    targets: [
        .target(name: "EdgeCore"),
        .target(name: "EdgeRuntime", dependencies: ["EdgeCore"], resources: [.copy("model")]),
        .executableTarget(name: "edge-check", dependencies: ["EdgeCore", "EdgeRuntime"]),
        .testTarget(name: "EdgeTests", dependencies: ["EdgeCore", "EdgeRuntime"]),
    ]
)
