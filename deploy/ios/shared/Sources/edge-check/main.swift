import EdgeCore
import EdgeRuntime
import Foundation

/// `edge-check [FOLDER]`: one line on standard error, one JSON object on standard output; exit code 0 if it is fine.
struct Verdict: Encodable {
    var ok: Bool
    var reason, model, target, precision: String?
    var files: Int?
    var tolerance, goldenError, imageError: Double?
}

func say(_ verdict: Verdict, _ line: String) {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = .sortedKeys
    FileHandle.standardError.write(Data("edge-check: \(line)\n".utf8))
    print((try? encoder.encode(verdict)).map { String(decoding: $0, as: UTF8.self) } ?? "{}")
}

do {
    let folder = CommandLine.arguments.dropFirst().first.map { URL(fileURLWithPath: $0) }
    let report = try openEdgeModel(folder: folder ?? bundledFolder()).report
    let verdict = Verdict(
        ok: true, reason: nil, model: report.model, target: report.target, precision: report.precision,
        files: report.files,
        tolerance: report.tolerance, goldenError: report.goldenError, imageError: report.imageError)
    say(
        verdict, "ok: \(report.files) files are whole, golden error \(report.goldenError) (allowed \(report.tolerance))"
    )
} catch {
    say(Verdict(ok: false, reason: "\(error)"), "refused: \(error)")
    exit(1)
}
