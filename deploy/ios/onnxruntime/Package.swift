// swift-tools-version:5.9
import PackageDescription

// On Apple's systems the runtime is Microsoft's Swift package. On Linux, where this is tested, it is the libonnxruntime
// that the linker finds (Debian 13: libonnxruntime-dev).
#if os(Linux)
    let packages: [Package.Dependency] = []
    let runtime: [Target.Dependency] = []
#else
    let packages: [Package.Dependency] = [
        .package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.20.0")
    ]
    let runtime: [Target.Dependency] = [.product(name: "onnxruntime", package: "onnxruntime-swift-package-manager")]
#endif

let package = Package(
    name: "EdgeModel", platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "EdgeModel", targets: ["EdgeCore", "EdgeRuntime"])],
    dependencies: packages,
    targets: [
        .target(name: "EdgeCore"),
        .target(
            name: "COnnxRuntime", dependencies: runtime,
            linkerSettings: [.linkedLibrary("onnxruntime", .when(platforms: [.linux]))]),
        .target(name: "EdgeRuntime", dependencies: ["EdgeCore", "COnnxRuntime"], resources: [.copy("model")]),
        .executableTarget(name: "edge-check", dependencies: ["EdgeCore", "EdgeRuntime"]),
        .testTarget(name: "EdgeTests", dependencies: ["EdgeCore", "EdgeRuntime"]),
    ]
)
