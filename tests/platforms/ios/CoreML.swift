import Foundation

// As much of Core ML as the runner calls, so that it can be type-checked where there is none. Nothing of it runs.

public enum MLComputeUnits { case cpuOnly, all }
public enum MLMultiArrayDataType { case double, float32, int32 }
public protocol MLFeatureProvider { func featureValue(for name: String) -> MLFeatureValue? }

public class MLModelConfiguration {
    public var computeUnits = MLComputeUnits.all
    public init() {}
}

public class MLFeatureDescription {}

public class MLModelDescription {
    public var inputDescriptionsByName: [String: MLFeatureDescription] { fatalError() }
    public var outputDescriptionsByName: [String: MLFeatureDescription] { fatalError() }
}

public class MLModel {
    public init(contentsOf: URL, configuration: MLModelConfiguration) throws { fatalError() }
    public class func compileModel(at: URL) throws -> URL { fatalError() }
    public var modelDescription: MLModelDescription { fatalError() }
    public func prediction(from: any MLFeatureProvider) throws -> any MLFeatureProvider { fatalError() }
}

public class MLMultiArray {
    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws { fatalError() }
    public var count: Int { fatalError() }
    public var shape: [NSNumber] { fatalError() }
    public subscript(index: Int) -> NSNumber {
        get { fatalError() }
        set { fatalError() }
    }
}

public class MLFeatureValue {
    public init(multiArray: MLMultiArray) { fatalError() }
    public var multiArrayValue: MLMultiArray? { fatalError() }
}

public class MLDictionaryFeatureProvider: MLFeatureProvider {
    public init(dictionary: [String: Any]) throws { fatalError() }
    public func featureValue(for name: String) -> MLFeatureValue? { fatalError() }
}
