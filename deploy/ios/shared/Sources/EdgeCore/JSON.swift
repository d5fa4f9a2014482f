import Foundation

/// Why a bundle is refused, in one line.
public struct Refusal: Error, CustomStringConvertible, Sendable {
    public let description: String

    public init(_ description: String) {
        let line = description.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7F ? "?" : Character($0) }
        self.description = String(line.prefix(500))
    }
}

/// A JSON document, read strictly (RFC 8259): no key twice, no number that is none, not too deep. Foundation's reader
/// takes `true` for 1 and 2.0 for 2, and the last of two keys.
enum JSON {
    case null
    case bool(Bool)
    case integer(Int)
    case real(Double)
    case text(String)
    case list([JSON])
    case object([String: JSON])

    init(_ data: Data) throws {
        guard String(data: data, encoding: .utf8) != nil else { throw Refusal("it is no UTF-8") }
        var scanner = Scanner(bytes: Array(data))
        self = try scanner.value(depth: 0)
        scanner.skipSpace()
        guard scanner.at == scanner.bytes.count else { throw Refusal("something follows its end") }
    }
}

private struct Scanner {
    let bytes: [UInt8]
    var at = 0
    var values = 0

    static let deepest = 128, mostValues = 1_000_000

    init(bytes: [UInt8]) { self.bytes = bytes }

    var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 0x09 || byte == 0x0A || byte == 0x0D { at += 1 }
    }

    mutating func take(_ byte: Character) -> Bool {
        guard next == byte.asciiValue else { return false }
        at += 1
        return true
    }

    mutating func value(depth: Int) throws -> JSON {
        skipSpace()
        values += 1
        guard depth <= Self.deepest, values <= Self.mostValues else {
            throw Refusal("it is nested too deeply or too long")
        }
        switch next {
        case UInt8(ascii: "{"): return try object(depth: depth)
        case UInt8(ascii: "["): return try list(depth: depth)
        case UInt8(ascii: "\""): return .text(try text())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return try number()
        }
    }

    mutating func word(_ word: String, _ value: JSON) throws -> JSON {
        guard bytes[at...].starts(with: word.utf8) else { throw Refusal("a value is malformed") }
        at += word.utf8.count
        return value
    }

    mutating func list(depth: Int) throws -> JSON {
        var items: [JSON] = []
        at += 1
        skipSpace()
        if take("]") { return .list(items) }
        repeat {
            items.append(try value(depth: depth + 1))
            skipSpace()
        } while take(",")
        guard take("]") else { throw Refusal("a list is malformed or cut off") }
        return .list(items)
    }

    mutating func object(depth: Int) throws -> JSON {
        var members: [String: JSON] = [:]
        at += 1
        skipSpace()
        if take("}") { return .object(members) }
        repeat {
            skipSpace()
            guard next == UInt8(ascii: "\"") else { throw Refusal("an object is malformed or cut off") }
            let key = try text()
            skipSpace()
            guard take(":") else { throw Refusal("an object is malformed or cut off") }
            guard members.updateValue(try value(depth: depth + 1), forKey: key) == nil else {
                throw Refusal("a key is there twice")
            }
            skipSpace()
        } while take(",")
        guard take("}") else { throw Refusal("an object is malformed or cut off") }
        return .object(members)
    }

    mutating func text() throws -> String {
        var found: [UInt8] = []
        at += 1
        while let byte = next, byte != UInt8(ascii: "\"") {
            guard byte >= 0x20 else { throw Refusal("a text holds a control character") }
            at += 1
            if byte == UInt8(ascii: "\\") { found += try escaped() } else { found.append(byte) }
        }
        guard take("\""), let text = String(bytes: found, encoding: .utf8) else {
            throw Refusal("a text is malformed or cut off")
        }
        return text
    }

    mutating func escaped() throws -> [UInt8] {
        guard let byte = next else { throw Refusal("a text is cut off") }
        at += 1
        switch Character(UnicodeScalar(byte)) {
        case "\"", "\\", "/": return [byte]
        case "b": return [0x08]
        case "f": return [0x0C]
        case "n": return [0x0A]
        case "r": return [0x0D]
        case "t": return [0x09]
        case "u": return try Array(String(Character(scalar())).utf8)
        default: throw Refusal("a text is malformed")
        }
    }

    mutating func scalar() throws -> UnicodeScalar {
        var code = try fourDigits()
        if 0xD800...0xDBFF ~= code, take("\\"), take("u") {
            let low = try fourDigits()
            guard 0xDC00...0xDFFF ~= low else { throw Refusal("a text holds half a character") }
            code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
        }
        guard let scalar = UnicodeScalar(code) else { throw Refusal("a text holds half a character") }
        return scalar
    }

    mutating func fourDigits() throws -> UInt32 {
        var code: UInt32 = 0
        for _ in 0..<4 {
            guard let byte = next, let digit = Character(UnicodeScalar(byte)).hexDigitValue else {
                throw Refusal("a text is malformed")
            }
            code = code << 4 | UInt32(digit)
            at += 1
        }
        return code
    }

    mutating func digits() throws {
        let from = at
        while let byte = next, 0x30...0x39 ~= byte { at += 1 }
        guard at > from else { throw Refusal("a value is malformed") }
    }

    mutating func number() throws -> JSON {
        let from = at
        var whole = true
        _ = take("-")
        if !take("0") { try digits() }
        if take(".") {
            whole = false
            try digits()
        }
        if take("e") || take("E") {
            whole = false
            if !take("+") { _ = take("-") }
            try digits()
        }
        let token = String(decoding: bytes[from..<at], as: UTF8.self)
        if whole, let integer = Int(token) { return .integer(integer) }
        guard let real = Double(token), real.isFinite else { throw Refusal("a number is too large") }
        return .real(real)
    }
}
