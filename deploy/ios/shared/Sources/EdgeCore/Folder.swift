import Foundation

#if canImport(CryptoKit)
    import CryptoKit
#endif

/// A folder that may be anyone's: its files are reached by no link, and are those that a manifest lists.
struct Folder {
    let url: URL

    private static let ignored: Set<String> = ["__pycache__", ".DS_Store", "Thumbs.db", "desktop.ini"]

    func place(_ path: String) -> URL { url.appendingPathComponent(path) }

    /// The bytes of a regular file, at most so many.
    func read(_ path: String, most: Int) throws -> Data {
        for folder in foldersOf(path) where type(folder) != .typeDirectory { throw missing(path) }
        guard type(path) == .typeRegular else { throw missing(path) }
        let size = (try? FileManager.default.attributesOfItem(atPath: place(path).path)[.size] as? NSNumber)??
            .int64Value
        guard let size, size <= most else { throw Refusal("\(path) has more than \(most) bytes") }
        guard let data = try? Data(contentsOf: place(path)), data.count <= most else { throw missing(path) }
        return data
    }

    private func missing(_ path: String) -> Refusal {
        Refusal("\(path) is missing, or is a link or no regular file; copy the whole folder")
    }

    /// Of an entry itself, not of what it links to.
    private func type(_ path: String) -> FileAttributeType? {
        (try? FileManager.default.attributesOfItem(atPath: place(path).path))?[.type] as? FileAttributeType
    }

    /// Every listed file is there and whole, and no other.
    func check(_ manifest: Manifest) throws {
        for file in manifest.files.values.sorted(by: { $0.path < $1.path }) {
            let data = try? read(file.path, most: file.bytes)
            if data == nil { _ = try read(file.path, most: Int.max) }  // missing, or else larger than it may be
            guard let data, data.count == file.bytes, sha256(data) == file.sha256 else {
                throw Refusal("\(file.path) was changed or damaged: its size or sha256 differs from the manifest's")
            }
        }
        try checkNoOthers("", manifest, Set(manifest.files.keys.flatMap(foldersOf)))
    }

    private func checkNoOthers(_ folder: String, _ manifest: Manifest, _ folders: Set<String>) throws {
        for name in try FileManager.default.contentsOfDirectory(atPath: place(folder).path).sorted() {
            let path = folder.isEmpty ? name : "\(folder)/\(name)"
            if Self.ignored.contains(name) || path == Manifest.file || manifest.files[path] != nil { continue }
            guard folders.contains(path), type(path) == .typeDirectory else {
                throw Refusal("\(path) is not listed in the manifest; move it out of this folder")
            }
            try checkNoOthers(path, manifest, folders)
        }
    }
}

/// 64 hexadecimal digits.
func sha256(_ data: Data) -> String {
    #if canImport(CryptoKit)
        return SHA256.hash(data: data).map { String(format: "%02x", $0) }.joined()
    #else
        return ownSHA256(data)
    #endif
}

/// SHA-256 (FIPS 180-4) where there is no CryptoKit.
func ownSHA256(_ data: Data) -> String {
    var state: [UInt32] = [
        0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
    ]
    let tail = data.count % 64
    let length = UInt64(data.count) * 8
    var last = Array(data.suffix(tail)) + [0x80] + Array(repeating: UInt8(0), count: (119 - tail) % 64)
    last += (0..<8).map { UInt8(truncatingIfNeeded: length >> (56 - 8 * UInt64($0))) }
    data.withUnsafeBytes { bytes in
        for start in stride(from: 0, to: data.count - tail, by: 64) {
            mix(&state, UnsafeRawBufferPointer(rebasing: bytes[start..<start + 64]))
        }
    }
    last.withUnsafeBytes { bytes in
        for start in stride(from: 0, to: last.count, by: 64) {
            mix(&state, UnsafeRawBufferPointer(rebasing: bytes[start..<start + 64]))
        }
    }
    return state.map { word in
        let digits = String(word, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }.joined()
}

private func mix(_ state: inout [UInt32], _ block: UnsafeRawBufferPointer) {
    var words = [UInt32](repeating: 0, count: 64)
    for i in 0..<16 { words[i] = UInt32(bigEndian: block.loadUnaligned(fromByteOffset: 4 * i, as: UInt32.self)) }
    for i in 16..<64 {
        let a = words[i - 15]
        let b = words[i - 2]
        let one = turned(a, 7) ^ turned(a, 18) ^ (a >> 3)
        let two = turned(b, 17) ^ turned(b, 19) ^ (b >> 10)
        words[i] = words[i - 16] &+ one &+ words[i - 7] &+ two
    }
    var (a, b, c, d, e, f, g, h) = (state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7])
    for i in 0..<64 {
        let turns = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)
        let choice = (e & f) ^ (~e & g)
        let one = h &+ turns &+ choice &+ fractions[i] &+ words[i]
        let two = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) &+ ((a & b) ^ (a & c) ^ (b & c))
        (h, g, f, e, d, c, b, a) = (g, f, e, d &+ one, c, b, a, one &+ two)
    }
    for (i, word) in [a, b, c, d, e, f, g, h].enumerated() { state[i] = state[i] &+ word }
}

private func turned(_ word: UInt32, _ by: UInt32) -> UInt32 { word >> by | word << (32 - by) }

private let fractions: [UInt32] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
]
