import COnnxRuntime
import EdgeCore
import Foundation

/// The folder of the model that this package brings.
public func bundledFolder() -> URL {
    (Bundle.module.resourceURL ?? Bundle.module.bundleURL).appendingPathComponent("model")
}

/// Checks a bundle and opens its model with ONNX Runtime, or throws why not.
public func openEdgeModel(folder: URL, threads: Int32 = 0) throws -> EdgeModel {
    try EdgeModel(folder: folder, decode: decodePNG) { file, manifest in
        guard ["onnx", "ort"].contains(manifest.target) else {
            throw Refusal("ONNX Runtime runs no \(manifest.target)")
        }
        return try OnnxRuntimeRunner(file, manifest, threads)
    }
}

/// A session of ONNX Runtime, over its C interface.
final class OnnxRuntimeRunner: Runner {
    private let api: UnsafePointer<OrtApi>
    private let manifest: Manifest
    private var env: OpaquePointer?, session: OpaquePointer?, memory: OpaquePointer?

    /// Of ONNX Runtime 1.18, the oldest that will do; later ones only add to it.
    private static let version: UInt32 = 18

    init(_ file: URL, _ manifest: Manifest, _ threads: Int32) throws {
        setenv("ORT_DISABLE_TELEMETRY", "1", 1)  // before an environment is made, which from 1.29 on reports home
        guard let base = OrtGetApiBase(), let api = base.pointee.GetApi(Self.version) else {
            throw Refusal("this ONNX Runtime is older than 1.\(Self.version)")
        }
        self.api = api
        self.manifest = manifest
        var options: OpaquePointer?
        defer { if options != nil { api.pointee.ReleaseSessionOptions(options) } }
        try fine(api.pointee.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edge", &env))
        try fine(api.pointee.CreateSessionOptions(&options))
        try fine(api.pointee.SetIntraOpNumThreads(options, threads))
        try fine(api.pointee.CreateSession(env, file.path, options, &session))
        try fine(api.pointee.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory))
    }

    deinit {
        if memory != nil { api.pointee.ReleaseMemoryInfo(memory) }
        if session != nil { api.pointee.ReleaseSession(session) }
        if env != nil { api.pointee.ReleaseEnv(env) }
    }

    private func fine(_ status: OpaquePointer?) throws {
        guard let status else { return }
        defer { api.pointee.ReleaseStatus(status) }
        throw Refusal("ONNX Runtime: \(api.pointee.GetErrorMessage(status).map { String(cString: $0) } ?? "it failed")")
    }

    // MARK: is it the model of the manifest?

    func check(_ manifest: Manifest) throws {
        var inputs = 0
        var outputs = 0
        try fine(api.pointee.SessionGetInputCount(session, &inputs))
        try fine(api.pointee.SessionGetOutputCount(session, &outputs))
        guard (inputs, outputs) == (manifest.inputs.count, manifest.outputs.count) else {
            throw Refusal("\(Manifest.file): inputs or outputs are not as many as the model's")
        }
        for (index, port) in manifest.inputs.enumerated() {
            try check(port, index, api.pointee.SessionGetInputName, api.pointee.SessionGetInputTypeInfo)
        }
        for (index, port) in manifest.outputs.enumerated() {
            try check(port, index, api.pointee.SessionGetOutputName, api.pointee.SessionGetOutputTypeInfo)
        }
    }

    private typealias NameOf = (
        OpaquePointer?, Int, UnsafeMutablePointer<OrtAllocator>?, UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
    ) -> OpaquePointer?
    private typealias TypeOf = (OpaquePointer?, Int, UnsafeMutablePointer<OpaquePointer?>?) -> OpaquePointer?

    private func check(_ port: Manifest.Port, _ index: Int, _ nameOf: NameOf, _ typeOf: TypeOf) throws {
        var allocator: UnsafeMutablePointer<OrtAllocator>?
        var name: UnsafeMutablePointer<CChar>?
        var type: OpaquePointer?
        var tensor: OpaquePointer?
        try fine(api.pointee.GetAllocatorWithDefaultOptions(&allocator))
        try fine(nameOf(session, index, allocator, &name))
        defer { if let status = api.pointee.AllocatorFree(allocator, name) { api.pointee.ReleaseStatus(status) } }
        try fine(typeOf(session, index, &type))
        defer { api.pointee.ReleaseTypeInfo(type) }
        try fine(api.pointee.CastTypeInfoToTensorInfo(type, &tensor))
        guard tensor != nil, let name, String(cString: name) == port.name else {
            throw Refusal("\(Manifest.file): \(port.name) is not the model's")
        }
        let (kind, shape) = try facts(tensor)
        guard kind == kindOf(port.dtype), shape.map({ $0 < 0 ? nil : Int($0) }) == port.shape else {
            throw Refusal("\(Manifest.file): \(port.name) has another dtype or shape in the model")
        }
    }

    private func facts(_ info: OpaquePointer?) throws -> (ONNXTensorElementDataType, [Int64]) {
        var kind = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
        var rank = 0
        try fine(api.pointee.GetTensorElementType(info, &kind))
        try fine(api.pointee.GetDimensionsCount(info, &rank))
        var shape = [Int64](repeating: 0, count: rank)
        try fine(api.pointee.GetDimensions(info, &shape, rank))
        return (kind, shape)
    }

    private func kindOf(_ dtype: Manifest.DType) -> ONNXTensorElementDataType {
        switch dtype {
        case .float32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
        case .float64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE
        case .float16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
        case .int64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
        case .int32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32
        case .int16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16
        case .int8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8
        case .uint8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
        case .bool: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL
        }
    }

    // MARK: running

    func run(_ inputs: [Tensor]) throws -> [Tensor] {
        let buffers = inputs.map { tensor -> UnsafeMutableRawBufferPointer in
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(tensor.data.count, 1), alignment: 64)
            tensor.data.copyBytes(to: buffer)
            return buffer
        }
        var fed = [OpaquePointer?](repeating: nil, count: inputs.count)
        var found = [OpaquePointer?](repeating: nil, count: manifest.outputs.count)
        defer {
            for value in fed + found where value != nil { api.pointee.ReleaseValue(value) }
            buffers.forEach { $0.deallocate() }
        }
        for (index, tensor) in inputs.enumerated() {
            let shape = tensor.shape.map(Int64.init)
            try fine(
                api.pointee.CreateTensorWithDataAsOrtValue(
                    memory, buffers[index].baseAddress, tensor.data.count, shape, shape.count, kindOf(tensor.dtype),
                    &fed[index]))
        }
        let names = manifest.inputs.map { strdup($0.name) }
        let wanted = manifest.outputs.map { strdup($0.name) }
        defer { (names + wanted).forEach { free($0) } }
        try fine(
            api.pointee.Run(
                session, nil, names.map { UnsafePointer($0) }, fed, fed.count, wanted.map { UnsafePointer($0) },
                wanted.count, &found))
        return try zip(manifest.outputs, found).map(output)
    }

    private func output(_ port: Manifest.Port, _ value: OpaquePointer?) throws -> Tensor {
        var info: OpaquePointer?
        var count = 0
        var numbers: UnsafeMutableRawPointer?
        try fine(api.pointee.GetTensorTypeAndShape(value, &info))
        defer { api.pointee.ReleaseTensorTypeAndShapeInfo(info) }
        let (kind, shape) = try facts(info)
        try fine(api.pointee.GetTensorShapeElementCount(info, &count))
        try fine(api.pointee.GetTensorMutableData(value, &numbers))
        guard kind == kindOf(port.dtype), let numbers else { throw Refusal("\(port.name) came out with another dtype") }
        return Tensor(
            name: port.name, dtype: port.dtype, shape: shape.map { Int($0) },
            data: Data(bytes: numbers, count: count * port.dtype.itemBytes))
    }
}
