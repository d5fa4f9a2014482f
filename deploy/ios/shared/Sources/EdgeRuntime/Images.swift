import EdgeCore
import Foundation

#if canImport(ImageIO)
    import CoreGraphics
    import ImageIO

    /// An image's bytes as they are stored: in its own colour space, so that nothing is converted on the way.
    public func pixels(_ image: CGImage) throws -> Pixels {
        let gray = image.colorSpace?.model == .monochrome
        let count = gray ? 1 : 4
        let space = image.colorSpace ?? (gray ? CGColorSpaceCreateDeviceGray() : CGColorSpaceCreateDeviceRGB())
        let alpha: CGImageAlphaInfo = gray ? .none : .noneSkipLast
        var bytes = [UInt8](repeating: 0, count: image.width * image.height * count)
        let drawn = bytes.withUnsafeMutableBytes { buffer -> Bool in
            guard
                let context = CGContext(
                    data: buffer.baseAddress, width: image.width, height: image.height, bitsPerComponent: 8,
                    bytesPerRow: image.width * count, space: space, bitmapInfo: alpha.rawValue)
            else { return false }
            context.interpolationQuality = .none
            context.draw(image, in: CGRect(x: 0, y: 0, width: image.width, height: image.height))
            return true
        }
        guard drawn else { throw Refusal("the image has a colour space that is neither gray nor RGB") }
        if gray { return try Pixels(bytes: bytes, height: image.height, width: image.width, channels: 1) }
        let colors = bytes.enumerated().filter { $0.offset % 4 < 3 }.map(\.element)
        return try Pixels(bytes: colors, height: image.height, width: image.width, channels: 3)
    }

    let decodePNG: ((Data) throws -> Pixels)? = { data in
        guard let source = CGImageSourceCreateWithData(data as CFData, nil),
            let image = CGImageSourceCreateImageAtIndex(source, 0, nil)
        else {
            throw Refusal("golden/image.png is not decoded")
        }
        return try pixels(image)
    }
#else
    let decodePNG: ((Data) throws -> Pixels)? = nil
#endif
