import CoreML
import EdgeCore
import Foundation

/// The folder of the model that this package brings.
public func bundledFolder() -> URL {
    (Bundle.module.resourceURL ?? Bundle.module.bundleURL).appendingPathComponent("model")
}

/// Checks a bundle and opens its model with Core ML, or throws why not.
public func openEdgeModel(folder: URL, units: MLComputeUnits = .all) throws -> EdgeModel {
    try EdgeModel(folder: folder, decode: decodePNG) { file, manifest in
        guard manifest.target == "coreml" else { throw Refusal("Core ML runs no \(manifest.target)") }
        return try CoreMLRunner(file, manifest, units)
    }
}

/// A model of Core ML, compiled where it runs.
final class CoreMLRunner: Runner {
    private let model: MLModel
    private let manifest: Manifest

    init(_ file: URL, _ manifest: Manifest, _ units: MLComputeUnits) throws {
        let settings = MLModelConfiguration()
        settings.computeUnits = units
        model = try MLModel(contentsOf: MLModel.compileModel(at: file), configuration: settings)
        self.manifest = manifest
    }

    func check(_ manifest: Manifest) throws {
        let inputs = Set(model.modelDescription.inputDescriptionsByName.keys)
        let outputs = Set(model.modelDescription.outputDescriptionsByName.keys)
        guard inputs == Set(manifest.inputs.map(\.name)), outputs == Set(manifest.outputs.map(\.name)) else {
            throw Refusal("\(Manifest.file): inputs or outputs are not the model's")
        }
    }

    func run(_ inputs: [Tensor]) throws -> [Tensor] {
        var fed: [String: MLFeatureValue] = [:]
        for tensor in inputs { fed[tensor.name] = MLFeatureValue(multiArray: try array(tensor)) }
        let answers = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: fed))
        return try manifest.outputs.map { port in
            guard let found = answers.featureValue(for: port.name)?.multiArrayValue else {
                throw Refusal("\(port.name) did not come out")
            }
            guard port.dtype == .float32 else { throw Refusal("\(port.name): Core ML's outputs are read as float32") }
            // In the order of its axes, whatever the strides.
            let floats = (0..<found.count).map { found[$0].floatValue }
            return Tensor(name: port.name, floats: floats, shape: found.shape.map(\.intValue))
        }
    }

    private func array(_ tensor: Tensor) throws -> MLMultiArray {
        let kinds: [Manifest.DType: MLMultiArrayDataType] = [.float32: .float32, .float64: .double, .int32: .int32]
        guard let kind = kinds[tensor.dtype] else { throw Refusal("\(tensor.name): Core ML takes no \(tensor.dtype)") }
        let array = try MLMultiArray(shape: tensor.shape.map { NSNumber(value: $0) }, dataType: kind)
        for (index, number) in tensor.doubles.enumerated() { array[index] = NSNumber(value: number) }
        return array
    }
}
