import Foundation

/// What `manifest.json` says of a bundle: as much of it as an app needs. What is read is proved, or refused.
public struct Manifest: Sendable {
    public static let file = "manifest.json"
    static let kind = "edgecompress.bundle", version = 2
    static let mostFiles = 2000, mostTensors = 256, largestBytes = 1 << 24, longestPath = 200, mostAxes = 16

    public enum DType: String, CaseIterable, Sendable {
        case float32, float64, float16, int64, int32, int16, int8, uint8, bool

        public var itemBytes: Int {
            switch self {
            case .float64, .int64: return 8
            case .float32, .int32: return 4
            case .float16, .int16: return 2
            case .int8, .uint8, .bool: return 1
            }
        }
    }

    enum Role: String, CaseIterable { case model, golden, labels, runtime, code, text }
    public enum Kind: String, CaseIterable, Sendable {
        case logits, probabilities, classes, boxes, embedding, image, tensor
    }
    public enum Layout: String, CaseIterable, Sendable {
        case nchw = "NCHW"
        case nhwc = "NHWC"
    }
    public enum Color: String, CaseIterable, Sendable {
        case gray
        case rgb = "RGB"
        case bgr = "BGR"
    }
    public enum Resize: String, CaseIterable, Sendable {
        case none, stretch
        case centreCrop = "centre-crop"
    }
    public enum Interpolation: String, CaseIterable, Sendable { case nearest, bilinear }

    /// How an image of bytes becomes an input.
    public struct Preprocessing: Sendable {
        public let height, width: Int
        public let color: Color
        public let resize: Resize
        public let interpolation: Interpolation
        public let scale: Double
        public let mean, std: [Double]
        public let layout: Layout

        public var channels: Int { color == .gray ? 1 : 3 }

        /// The shape of one prepared image of a size.
        func shape(_ height: Int, _ width: Int) -> [Int] {
            layout == .nhwc ? [1, height, width, channels] : [1, channels, height, width]
        }
    }

    /// An input or output; nil in the shape is a free size.
    public struct Port: Sendable {
        public let name: String
        public let dtype: DType
        public let shape: [Int?]
        public let preprocessing: Preprocessing?
        public let kind: Kind?
        public let labels: String?
    }

    /// A raw file: its numbers, little-endian, last axis fastest.
    struct Raw: Sendable {
        let name, path: String
        let dtype: DType
        let shape: [Int]
        let bytes: Int
    }

    struct Pair: Sendable {
        let height, width: Int
        let pixels, prepared: Raw
    }

    struct Image: Sendable {
        let tolerance: Double
        let png: String
        let pngTolerance: Int
        let own: Pair
        let resized: Pair?
        let outputs: [Raw]
    }

    struct Listed: Sendable {
        let path, sha256: String
        let role: Role
        let bytes: Int
    }

    public let model, modelFile, target, precision: String
    public let tolerance: Double
    public let inputs, outputs: [Port]
    let goldenInputs, goldenOutputs: [Raw]
    let image: Image?
    let files: [String: Listed]

    /// Reads a manifest of unknown origin.
    public init(_ data: Data) throws {
        guard data.count <= Self.largestBytes else {
            throw Refusal("\(Self.file) has more than \(Self.largestBytes) bytes")
        }
        do {
            try self.init(Field(JSON(data), ""))
        } catch let refusal as Refusal {
            throw Refusal("\(Self.file) is malformed: \(refusal); make the bundle again")
        }
    }

    private init(_ document: Field) throws {
        guard case .object = document.value else { throw Refusal("it is no JSON object") }
        guard case .text(Self.kind)? = try? document.member("kind").value else {
            throw Refusal("kind is not \(Self.kind)")
        }
        guard case .integer(Self.version)? = try? document.member("version").value else {
            throw Refusal("version is not 2")
        }
        files = try listedFiles(document.member("files"))
        model = try document.member("model").text()
        modelFile = try document.member("model_file").path()
        target = try document.member("target").text()
        precision = try document.member("precision").text()
        tolerance = try document.member("tolerance").fraction()
        inputs = try ports(document.member("inputs"), outputs: false)
        outputs = try ports(document.member("outputs"), outputs: true)
        let golden = try document.member("golden")
        goldenInputs = try golden.member("inputs").list(1...Self.mostTensors).map(raw)
        goldenOutputs = try golden.member("outputs").list(1...Self.mostTensors).map(raw)
        let found = try golden.member("image")
        image = found.isNull ? nil : try goldenImage(found, inputs[0].preprocessing)
        let runner = try document.member("runner")
        try check(runner: runner.isNull ? nil : runner.path())
    }
}

/// A value and where it stands.
struct Field {
    let value: JSON
    let name: String

    init(_ value: JSON, _ name: String) {
        self.value = value
        self.name = name
    }

    var isNull: Bool { if case .null = value { return true } else { return false } }

    func bad(_ what: String) -> Refusal { Refusal("\(name) \(what)") }

    func member(_ key: String) throws -> Field {
        let full = name.isEmpty ? key : "\(name).\(key)"
        guard case .object(let members) = value, let found = members[key] else { throw Refusal("\(full) is missing") }
        return Field(found, full)
    }

    func list(_ counts: ClosedRange<Int>) throws -> [Field] {
        guard case .list(let items) = value, counts.contains(items.count) else {
            throw bad("is no list, is empty, or is too long")
        }
        return items.map { Field($0, name) }
    }

    func text() throws -> String {
        guard case .text(let text) = value, !text.utf8.contains(0) else { throw bad("is no text") }
        return text
    }

    func path() throws -> String {
        let path = try text()
        guard isPath(path) else { throw bad("'\(path.prefix(100))' is not the path of a file in this folder") }
        return path
    }

    func whole(_ least: Int) throws -> Int {
        guard case .integer(let number) = value, number >= least else {
            throw bad("is no whole number of at least \(least)")
        }
        return number
    }

    func number() throws -> Double {
        switch value {
        case .integer(let number): return Double(number)
        case .real(let number): return number
        default: throw bad("is no number")
        }
    }

    func fraction() throws -> Double {
        let number = try number()
        guard number > 0, number <= 1 else { throw bad("is no fraction") }
        return number
    }

    func choice<T: RawRepresentable>(_ type: T.Type) throws -> T where T.RawValue == String {
        guard case .text(let text) = value, let found = T(rawValue: text) else { throw bad("is not known") }
        return found
    }

    func size() throws -> (Int, Int) {
        guard case .list(let items) = value, items.count == 2 else { throw bad("is not height and width") }
        return (try Field(items[0], name).whole(1), try Field(items[1], name).whole(1))
    }
}

/// Whether this is the path of a file in a bundle: relative, forward slashes, no part that begins with a dot.
func isPath(_ text: String) -> Bool {
    let word = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_".utf8)
    let others = Set(".+@=-".utf8)
    guard text.utf8.count <= Manifest.longestPath else { return false }
    return text.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).allSatisfy { part in
        part.first.map(word.contains) == true && part.allSatisfy { word.contains($0) || others.contains($0) }
    }
}

private func listedFiles(_ field: Field) throws -> [String: Manifest.Listed] {
    var files: [String: Manifest.Listed] = [:]
    var seen: Set<String> = []
    for item in try field.list(1...Manifest.mostFiles) {
        let path = try item.member("path").path()
        let digest = try item.member("sha256").text()
        guard digest.utf8.count == 64, digest.utf8.allSatisfy({ 0x30...0x39 ~= $0 || 0x61...0x66 ~= $0 }) else {
            throw item.bad("sha256 is no digest of 64 hexadecimal digits")
        }
        guard path.lowercased() != Manifest.file else { throw field.bad("lists \(Manifest.file) itself") }
        guard seen.insert(path.lowercased()).inserted else { throw field.bad("lists \(path) twice") }
        let role = try item.member("role").choice(Manifest.Role.self)
        let bytes = try item.member("size_bytes").whole(0)
        files[path] = Manifest.Listed(path: path, sha256: digest, role: role, bytes: bytes)
    }
    guard seen.isDisjoint(with: seen.flatMap(foldersOf)) else { throw field.bad("has one that lies in another") }
    return files
}

/// The folders that a path lies in.
func foldersOf(_ path: String) -> [String] {
    let parts = path.split(separator: "/")
    return (1..<max(parts.count, 1)).map { parts.prefix($0).joined(separator: "/") }
}

private func shape(_ field: Field) throws -> [Int?] {
    try field.list(0...Manifest.mostAxes).map { size in
        if case .text = size.value { return nil }
        return try size.whole(1)
    }
}

private func ports(_ field: Field, outputs: Bool) throws -> [Manifest.Port] {
    let found = try field.list(1...Manifest.mostTensors).map { item in
        let kind = outputs ? try item.member("kind").choice(Manifest.Kind.self) : nil
        let labels = outputs ? try item.member("labels") : nil
        let port = Manifest.Port(
            name: try item.member("name").text(), dtype: try item.member("dtype").choice(Manifest.DType.self),
            shape: try shape(item.member("shape")), preprocessing: outputs ? nil : try preprocessing(item), kind: kind,
            labels: labels.map(\.isNull) == false ? try labels?.path() : nil)
        if let steps = port.preprocessing { try check(steps, of: port, item) }
        return port
    }
    guard Set(found.map { Array($0.name.utf8) }).count == found.count else { throw field.bad("has a name twice") }
    return found
}

private func preprocessing(_ port: Field) throws -> Manifest.Preprocessing? {
    let field = try port.member("preprocessing")
    let layout = try port.member("layout")
    let laid = layout.isNull ? nil : try layout.choice(Manifest.Layout.self)
    if field.isNull { return nil }
    guard let laid else { throw field.bad("needs a layout") }
    let (height, width) = try field.member("size").size()
    let steps = Manifest.Preprocessing(
        height: height, width: width, color: try field.member("color").choice(Manifest.Color.self),
        resize: try field.member("resize").choice(Manifest.Resize.self),
        interpolation: try field.member("interpolation").choice(Manifest.Interpolation.self),
        scale: try field.member("scale").number(), mean: try field.member("mean").list(0...3).map { try $0.number() },
        std: try field.member("std").list(0...3).map { try $0.number() }, layout: laid)
    guard steps.mean.count == steps.channels, steps.std.count == steps.channels else {
        throw field.bad("mean and std are not lists of a number for each channel")
    }
    guard steps.scale != 0, !steps.std.contains(0) else { throw field.bad("scale or std is 0") }
    return steps
}

private func check(_ steps: Manifest.Preprocessing, of port: Manifest.Port, _ field: Field) throws {
    let wanted = steps.shape(steps.height, steps.width)
    guard port.dtype == .float32, port.shape.count == 4 else {
        throw field.bad("preprocessing is of no image of float32 with a layout")
    }
    for axis in 1..<4 where port.shape[axis] != nil && port.shape[axis] != wanted[axis] {
        throw field.bad("preprocessing has not the size and channels of the input")
    }
}

private func raw(_ field: Field) throws -> Manifest.Raw {
    let sides = try shape(field.member("shape"))
    let dtype = try field.member("dtype").choice(Manifest.DType.self)
    var bytes = dtype.itemBytes
    for side in sides {
        guard let side else { throw field.bad("shape has a free size") }
        let (product, overflow) = bytes.multipliedReportingOverflow(by: side)
        guard !overflow else { throw field.bad("shape is too large") }
        bytes = product
    }
    return Manifest.Raw(
        name: try field.member("name").text(), path: try field.member("path").path(), dtype: dtype,
        shape: sides.compactMap { $0 }, bytes: bytes)
}

private func goldenImage(_ field: Field, _ steps: Manifest.Preprocessing?) throws -> Manifest.Image {
    guard let steps else { throw field.bad("needs preprocessing of the first input") }
    let resized = try field.member("resized")
    let apart = resized.isNull ? nil : try pair(resized, resized.member("size").size(), steps)
    let own = try pair(field, (steps.height, steps.width), steps)
    guard own.pixels.shape.prefix(2) == [steps.height, steps.width] else {
        throw field.bad("pixels have not the size of the input")
    }
    return Manifest.Image(
        tolerance: try field.member("tolerance").fraction(), png: try field.member("png").path(),
        pngTolerance: try field.member("png_tolerance").whole(0), own: own, resized: apart,
        outputs: try field.member("outputs").list(0...Manifest.mostTensors).map(raw))
}

private func pair(_ field: Field, _ size: (Int, Int), _ steps: Manifest.Preprocessing) throws -> Manifest.Pair {
    let pixels = try raw(field.member("pixels"))
    let prepared = try raw(field.member("prepared"))
    guard pixels.dtype == .uint8, pixels.shape.count == 3, pixels.shape[2] == steps.channels,
        prepared.dtype == .float32,
        prepared.shape == steps.shape(size.0, size.1)
    else { throw field.bad("has not the dtypes and shapes of the model's input") }
    return Manifest.Pair(height: size.0, width: size.1, pixels: pixels, prepared: prepared)
}

extension Manifest {
    /// What one part names, another has.
    fileprivate func check(runner: String?) throws {
        let own = files.values.filter { $0.path == modelFile || $0.path.hasPrefix("\(modelFile)/") }
        guard !own.isEmpty, own.allSatisfy({ $0.role == .model }) else {
            throw Refusal("model_file is none of the files with the role model")
        }
        if let runner { try check("runner", runner, .code) }
        for labels in outputs.compactMap(\.labels) { try check("labels", labels, .labels) }
        try check("golden.inputs", goldenInputs, inputs)
        try check("golden.outputs", goldenOutputs, outputs)
        guard let image else { return }
        try check("golden.image", image.png, .golden)
        for pair in [image.own, image.resized].compactMap({ $0 }) {
            try [pair.pixels, pair.prepared].forEach { try check("golden.image", $0) }
        }
        guard !image.outputs.isEmpty else { return }
        guard inputs.count == 1 else { throw Refusal("golden.image.outputs are of a model with several inputs") }
        try check("golden.image.outputs", image.outputs, outputs)
    }

    private func check(_ what: String, _ path: String, _ role: Role) throws {
        guard files[path]?.role == role else {
            throw Refusal("\(what) '\(path)' is none of the files with the role \(role)")
        }
    }

    private func check(_ what: String, _ raw: Raw) throws {
        try check(what, raw.path, .golden)
        guard files[raw.path]?.bytes == raw.bytes else {
            throw Refusal("\(what): \(raw.path) has not the bytes of its shape")
        }
    }

    private func check(_ what: String, _ raws: [Raw], _ ports: [Port]) throws {
        guard raws.count == ports.count else { throw Refusal("\(what) are not as many as the model has") }
        for (raw, port) in zip(raws, ports) {
            let same =
                raw.name.utf8.elementsEqual(port.name.utf8) && raw.dtype == port.dtype
                && raw.shape.count == port.shape.count
            guard same, zip(raw.shape, port.shape).allSatisfy({ $1 == nil || $0 == $1 }) else {
                throw Refusal("\(what) have not names, dtypes and shapes of the model")
            }
            try check(what, raw)
        }
    }
}
