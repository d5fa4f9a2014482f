/// An image of bytes, (height, width, channels): gray 1, RGB 3, RGBA 4.
public struct Pixels: Sendable {
    public let bytes: [UInt8]
    public let height, width, channels: Int

    public init(bytes: [UInt8], height: Int, width: Int, channels: Int) throws {
        let sides = 1...(1 << 16)
        guard sides.contains(height), sides.contains(width), [1, 3, 4].contains(channels),
            bytes.count == height * width * channels
        else {
            throw Refusal(
                "an image has 1, 3 or 4 channels, at most 65536 pixels in height and width, and a byte for each")
        }
        (self.bytes, self.height, self.width, self.channels) = (bytes, height, width, channels)
    }
}

/// Which pixels of a side count for one that is wanted, from the first on, and how much.
private struct Weights {
    let first: Int
    let values: [Double]
}

extension Manifest.Preprocessing {
    /// The input's numbers for an image: in double precision from the bytes on, and rounded once, as in every language.
    public func prepare(_ image: Pixels) throws -> [Float] { try prepare(image, height, width) }

    func prepare(_ image: Pixels, _ height: Int, _ width: Int) throws -> [Float] {
        if resize == .none && (image.height, image.width) != (height, width) {
            throw Refusal("the image is \(image.height) x \(image.width), the model takes \(height) x \(width)")
        }
        var tall = Double(image.height)
        var wide = Double(image.width)
        if resize == .centreCrop {
            let factor = min(tall / Double(height), wide / Double(width))
            (tall, wide) = (Double(height) * factor, Double(width) * factor)
        }
        let rows = weights(image.height, tall, height)
        let columns = weights(image.width, wide, width)
        let count = channels
        var found = [Float](repeating: 0, count: height * width * count)
        var row = [Double](repeating: 0, count: image.width * count)
        for y in 0..<height {
            fill(&row, image, rows[y])
            for x in 0..<width {
                for c in 0..<count {
                    var sum = 0.0
                    for (i, weight) in columns[x].values.enumerated() {
                        sum += weight * row[(columns[x].first + i) * count + c]
                    }
                    let place = layout == .nhwc ? (y * width + x) * count + c : (c * height + y) * width + x
                    found[place] = Float((sum * scale - mean[c]) / std[c])
                }
            }
        }
        return found
    }

    /// One row of the result in the image's width: rows of it, weighed.
    private func fill(_ row: inout [Double], _ image: Pixels, _ weights: Weights) {
        for i in row.indices { row[i] = 0 }
        for (i, weight) in weights.values.enumerated() {
            let start = (weights.first + i) * image.width
            for x in 0..<image.width {
                for c in 0..<channels {
                    row[x * channels + c] += weight * level(image, (start + x) * image.channels, c)
                }
            }
        }
    }

    /// A byte of a pixel in the colour that is wanted.
    private func level(_ image: Pixels, _ at: Int, _ channel: Int) -> Double {
        if image.channels == 1 { return Double(image.bytes[at]) }
        if color != .gray { return Double(image.bytes[at + (color == .bgr ? 2 - channel : channel)]) }
        let (r, g, b) = (Int(image.bytes[at]), Int(image.bytes[at + 1]), Int(image.bytes[at + 2]))
        return Double((19595 * r + 38470 * g + 7471 * b + 32768) >> 16)
    }

    /// `part` of `whole` pixels, in their middle, become `wanted`.
    private func weights(_ whole: Int, _ part: Double, _ wanted: Int) -> [Weights] {
        let step = part / Double(wanted)
        let reach = max(step, 1)
        return (0..<wanted).map { index in
            let centre = (Double(whole) - part) / 2 + (Double(index) + 0.5) * step
            if interpolation == .nearest {
                return Weights(first: min(max(Int(centre.rounded(.down)), 0), whole - 1), values: [1])
            }
            let first = min(max(Int((centre - reach - 0.5).rounded(.down)), 0), whole - 1)
            let last = min(max(Int((centre + reach + 0.5).rounded(.up)), first), whole - 1)
            let values = (first...last).map { max(0, 1 - abs(Double($0) + 0.5 - centre) / reach) }
            let sum = values.reduce(0, +)
            return Weights(first: first, values: values.map { $0 / sum })
        }
    }
}
