import Foundation

/// A tensor: its last axis is the fastest, numbers are little-endian.
public struct Tensor: Sendable {
    public let name: String
    public let dtype: Manifest.DType
    public let shape: [Int]
    public let data: Data

    public init(name: String, dtype: Manifest.DType, shape: [Int], data: Data) {
        (self.name, self.dtype, self.shape, self.data) = (name, dtype, shape, data)
    }

    public init(name: String, floats: [Float], shape: [Int]) {
        self.init(name: name, dtype: .float32, shape: shape, data: floats.withUnsafeBytes { Data($0) })
    }

    /// All numbers.
    public var doubles: [Double] {
        data.withUnsafeBytes { bytes in
            (0..<bytes.count / dtype.itemBytes).map { index in
                func at<T: BinaryInteger>(_ type: T.Type) -> T {
                    bytes.loadUnaligned(fromByteOffset: index * dtype.itemBytes, as: type)
                }
                switch dtype {
                case .float32: return Double(Float(bitPattern: at(UInt32.self)))
                case .float64: return Double(bitPattern: at(UInt64.self))
                case .float16: return half(at(UInt16.self))
                case .int64: return Double(at(Int64.self))
                case .int32: return Double(at(Int32.self))
                case .int16: return Double(at(Int16.self))
                case .int8: return Double(at(Int8.self))
                case .uint8, .bool: return Double(at(UInt8.self))
                }
            }
        }
    }
}

private func half(_ bits: UInt16) -> Double {
    let exponent = Int(bits >> 10 & 31)
    let fraction = Double(bits & 1023)
    var size = exponent == 31 ? (fraction == 0 ? Double.infinity : .nan) : (exponent == 0 ? fraction : fraction + 1024)
    if exponent < 31 { size *= pow(2, Double(max(exponent, 1) - 25)) }
    return bits >> 15 == 1 ? -size : size
}

/// What runs a model. A class of the runtime; this module knows none.
public protocol Runner: AnyObject {
    /// Proves that the manifest's inputs and outputs are the model's.
    func check(_ manifest: Manifest) throws
    /// All outputs for all inputs, in the manifest's order.
    func run(_ inputs: [Tensor]) throws -> [Tensor]
}

/// What the check found: errors as fractions of the largest expected number.
public struct Report: Sendable {
    public let model, target, precision: String
    public let files: Int
    public let tolerance, goldenError: Double
    /// Of the prepared golden image; nil: the model takes none.
    public let imageError: Double?
    /// The largest difference in a byte of the golden PNG; nil: nothing here decodes one.
    public let pngDifference: Int?
}

/// A bundle's model, opened only once everything in it is proved: files, golden pair, golden image.
public final class EdgeModel {
    public let manifest: Manifest
    public let report: Report
    private let runner: Runner
    private let labels: [[String]?]

    /// - Parameters:
    ///   - folder: what holds `manifest.json`.
    ///   - decode: the bytes of a PNG as pixels, by what the app decodes images with.
    ///   - load: makes the runner of a model's file.
    public init(folder url: URL, decode: ((Data) throws -> Pixels)? = nil, load: (URL, Manifest) throws -> Runner)
        throws
    {
        let folder = Folder(url: url)
        manifest = try Manifest(folder.read(Manifest.file, most: Manifest.largestBytes))
        try folder.check(manifest)
        labels = try manifest.outputs.map {
            try $0.labels.map { try lines(folder.read($0, most: Manifest.largestBytes)) }
        }
        runner = try load(folder.place(manifest.modelFile), manifest)
        try runner.check(manifest)
        let check = Check(folder: folder, manifest: manifest, runner: runner)
        let golden = try check.goldenError()
        let image = try check.imageError()
        let png = try check.pngDifference(decode)
        report = Report(
            model: manifest.model, target: manifest.target, precision: manifest.precision, files: manifest.files.count,
            tolerance: manifest.tolerance, goldenError: golden, imageError: image, pngDifference: png)
    }

    /// All outputs for all inputs, in the manifest's order; NaN is no answer.
    public func run(_ inputs: [Tensor]) throws -> [Tensor] {
        guard inputs.count == manifest.inputs.count else {
            throw Refusal("the model takes \(manifest.inputs.count) inputs")
        }
        for (tensor, port) in zip(inputs, manifest.inputs) {
            let same =
                tensor.dtype == port.dtype && tensor.shape.count == port.shape.count
                && tensor.shape.allSatisfy { $0 > 0 }
            guard same, zip(tensor.shape, port.shape).allSatisfy({ $1 == nil || $0 == $1 }),
                tensor.data.count == tensor.shape.reduce(tensor.dtype.itemBytes, *)
            else { throw Refusal("\(port.name): the tensor has not its dtype, shape and bytes") }
        }
        return try runner.run(inputs).map { output in
            guard !output.doubles.contains(where: \.isNaN) else { throw Refusal("\(output.name): NaN came out") }
            return output
        }
    }

    /// The outputs for one image of any size.
    public func run(_ image: Pixels) throws -> [Tensor] {
        guard manifest.inputs.count == 1, let steps = manifest.inputs[0].preprocessing else {
            throw Refusal("the model takes no single image")
        }
        let floats = try steps.prepare(image)
        return try run([
            Tensor(name: manifest.inputs[0].name, floats: floats, shape: steps.shape(steps.height, steps.width))
        ])
    }

    /// The name of the class with the highest score in an output of one item; nil where it has no names.
    public func label(_ output: Tensor, _ index: Int = 0) -> String? {
        let scores = output.doubles
        guard let names = labels[index], output.shape.count == 2, names.count == scores.count else { return nil }
        return scores.indices.max { scores[$0] < scores[$1] }.map { names[$0] }
    }
}

private func lines(_ data: Data) throws -> [String] {
    guard let text = String(data: data, encoding: .utf8) else { throw Refusal("the labels are no text") }
    return text.split(separator: "\n").map(String.init)
}

private struct Check {
    let folder: Folder
    let manifest: Manifest
    let runner: Runner

    func tensor(_ raw: Manifest.Raw) throws -> Tensor {
        let found = Tensor(
            name: raw.name, dtype: raw.dtype, shape: raw.shape, data: try folder.read(raw.path, most: raw.bytes))
        guard found.data.count == raw.bytes else { throw Refusal("\(raw.path) has not the bytes of its shape") }
        guard !found.doubles.contains(where: \.isNaN) else {
            throw Refusal("\(raw.path) holds NaN, which proves nothing")
        }
        return found
    }

    func goldenError() throws -> Double {
        let error = try worst(manifest.goldenInputs.map(tensor), manifest.goldenOutputs)
        return try within("the answers to the golden inputs differ", error, manifest.tolerance)
    }

    func imageError() throws -> Double? {
        guard let image = manifest.image, let steps = manifest.inputs[0].preprocessing else { return nil }
        var error = 0.0
        for pair in [image.own, image.resized].compactMap({ $0 }) {
            let floats = try steps.prepare(pixels(pair.pixels), pair.height, pair.width)
            let ours = Tensor(name: "the golden image", floats: floats, shape: pair.prepared.shape)
            error = max(error, try difference(ours, tensor(pair.prepared)))
        }
        _ = try within("the golden image is prepared with an error", error, image.tolerance)
        if !image.outputs.isEmpty {
            let floats = try steps.prepare(pixels(image.own.pixels))
            let fed = Tensor(name: manifest.inputs[0].name, floats: floats, shape: image.own.prepared.shape)
            _ = try within("the answers to the golden image differ", worst([fed], image.outputs), manifest.tolerance)
        }
        return error
    }

    func pngDifference(_ decode: ((Data) throws -> Pixels)?) throws -> Int? {
        guard let image = manifest.image, let decode else { return nil }
        let ours = try decode(folder.read(image.png, most: Manifest.largestBytes))
        let theirs = try pixels(image.own.pixels)
        guard (ours.height, ours.width, ours.channels) == (theirs.height, theirs.width, theirs.channels) else {
            throw Refusal("the golden image's PNG is decoded to another size or other channels")
        }
        let apart = zip(ours.bytes, theirs.bytes).map { abs(Int($0) - Int($1)) }.max() ?? 0
        guard apart <= image.pngTolerance else {
            throw Refusal(
                "the golden image's PNG is decoded with a difference of \(apart) (allowed \(image.pngTolerance))")
        }
        return apart
    }

    private func pixels(_ raw: Manifest.Raw) throws -> Pixels {
        try Pixels(bytes: Array(tensor(raw).data), height: raw.shape[0], width: raw.shape[1], channels: raw.shape[2])
    }

    private func worst(_ inputs: [Tensor], _ wanted: [Manifest.Raw]) throws -> Double {
        try zip(runner.run(inputs), wanted).map { try difference($0, tensor($1)) }.max() ?? .infinity
    }

    private func within(_ what: String, _ error: Double, _ allowed: Double) throws -> Double {
        guard error <= allowed else { throw Refusal("\(what) by \(error) of the largest number (allowed \(allowed))") }
        return error
    }

    /// Infinity has to stand where it is expected.
    private func difference(_ ours: Tensor, _ theirs: Tensor) throws -> Double {
        guard ours.dtype == theirs.dtype, ours.shape == theirs.shape else {
            throw Refusal("\(theirs.name) came out with another dtype or shape")
        }
        var apart = 0.0
        var largest = -1.0
        for (a, b) in zip(ours.doubles, theirs.doubles) {
            guard b.isFinite ? a.isFinite : a == b else { throw Refusal("\(theirs.name): NaN or infinity came out") }
            if b.isFinite { (apart, largest) = (max(apart, abs(a - b)), max(largest, abs(b))) }
        }
        guard largest >= 0 else { throw Refusal("\(theirs.name): no finite golden number is there to compare with") }
        return apart / max(largest, 1e-6)
    }
}
