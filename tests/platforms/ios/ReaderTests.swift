import Foundation
import XCTest

@testable import EdgeCore

/// `/w/cases.json`, which the tests of all readers have in common.
private struct Cases: Decodable {
    struct Bad: Decodable { let name, text, says: String }
    struct Digest: Decodable {
        let data: Data
        let hex: String
    }
    struct Preparation: Decodable {
        let manifest: String
        let shape, size: [Int]
        let pixels, prepared: Data
    }
    let good: String
    let same: String
    let bad: [Bad]
    let goodPaths, badPaths: [String]
    let digests: [Digest]
    let preparations: [Preparation]
}

final class ReaderTests: XCTestCase {
    private func cases() throws -> Cases {
        try JSONDecoder().decode(Cases.self, from: Data(contentsOf: URL(fileURLWithPath: "/w/cases.json")))
    }

    func testTheGoodManifestIsTaken() throws {
        for text in [try cases().good, try cases().same] {
            XCTAssertEqual(try Manifest(Data(text.utf8)).model, "small")
        }
    }

    func testEachBadOneIsRefused() throws {
        let bad = try cases().bad
        XCTAssertGreaterThan(bad.count, 150)
        for one in bad {
            XCTAssertThrowsError(try Manifest(Data(one.text.utf8)), one.name) { error in
                let said = "\(error)"
                XCTAssert(said.contains(one.says) && said.contains("manifest.json"), "\(one.name): \(said)")
            }
        }
    }

    func testPaths() throws {
        XCTAssertEqual(try cases().goodPaths.filter { !isPath($0) }, [])
        XCTAssertEqual(try cases().badPaths.filter(isPath), [])
    }

    func testDigests() throws {
        let digests = try cases().digests
        XCTAssertGreaterThan(digests.count, 100)
        for one in digests { XCTAssertEqual(ownSHA256(one.data), one.hex, "\(one.data.count)") }
    }

    func testPixelsArePreparedAsEverywhere() throws {
        let preparations = try cases().preparations
        XCTAssertEqual(preparations.count, 72)
        for one in preparations {
            let steps = try XCTUnwrap(Manifest(Data(one.manifest.utf8)).inputs[0].preprocessing)
            let image = try Pixels(
                bytes: Array(one.pixels), height: one.shape[0], width: one.shape[1], channels: one.shape[2])
            let ours = try steps.prepare(image, one.size[0], one.size[1]).map(Double.init)
            let theirs = Tensor(name: "", dtype: .float32, shape: [], data: one.prepared).doubles
            XCTAssertEqual(ours.count, theirs.count)
            let largest = theirs.map(abs).max() ?? 0
            XCTAssertLessThanOrEqual(zip(ours, theirs).map { abs($0 - $1) }.max() ?? 1, 1e-6 * largest)
        }
    }

    func testHostileBytesDoNoHarm() throws {
        var random = SystemRandomNumberGenerator()
        var taken = 0
        let good = Array(try cases().good.utf8)
        for _ in 0..<300 {
            var wild = good
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                let at = Int.random(in: 0..<wild.count, using: &random)
                if Bool.random(using: &random) {
                    wild[at] = .random(in: 0...255, using: &random)
                } else {
                    wild.remove(at: at)
                }
            }
            taken += (try? Manifest(Data(wild))) == nil ? 0 : 1
        }
        XCTAssertLessThan(taken, 150)
    }

    func testHalves() {
        let bits: [(UInt16, Double)] = [
            (0, 0), (0x3C00, 1), (0xC000, -2), (0x0001, 5.960464477539063e-8), (0x7BFF, 65504), (0xFC00, -.infinity),
        ]
        for (half, value) in bits {
            let data = withUnsafeBytes(of: half.littleEndian) { Data($0) }
            XCTAssertEqual(Tensor(name: "", dtype: .float16, shape: [1], data: data).doubles, [value])
        }
    }
}
