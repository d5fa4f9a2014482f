import EdgeCore
import EdgeRuntime
import Foundation
import XCTest

/// On the device or the simulator: does the bundled model answer as PyTorch did?
final class GoldenTests: XCTestCase {
    func testTheBundledModelAnswersAsItMust() throws {
        let model = try openEdgeModel(folder: bundledFolder())
        print("edge: \(model.report)")
        XCTAssertLessThanOrEqual(model.report.goldenError, model.report.tolerance)
    }

    func testAnotherShapeIsRefused() throws {
        let model = try openEdgeModel(folder: bundledFolder())
        let wrong = Tensor(name: model.manifest.inputs[0].name, floats: [1, 2, 3], shape: [3])
        XCTAssertThrowsError(try model.run([wrong]))
    }

    func testAChangedFileIsRefused() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.copyItem(at: bundledFolder(), to: folder)
        defer { try? FileManager.default.removeItem(at: folder) }
        let file = folder.appendingPathComponent("golden/output_0.bin")
        var data = try Data(contentsOf: file)
        data[data.count / 2] ^= 1
        try data.write(to: file)
        XCTAssertThrowsError(try openEdgeModel(folder: folder)) {
            XCTAssert("\($0)".contains("output_0.bin was changed"))
        }
    }
}
