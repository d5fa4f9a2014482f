package edge.model

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min

/** An image of bytes: rows from the top, pixels from the left, 1 (gray), 3 (RGB) or 4 (RGBA) channels of each. */
class Pixels(val height: Int, val width: Int, val channels: Int, val bytes: ByteArray) {
    init {
        require(height > 0 && width > 0) { "an image of $height x $width pixels" }
        require(channels == 1 || channels == 3 || channels == 4) { "an image of $channels channels" }
        require(bytes.size.toLong() == height.toLong() * width * channels) { "an image of other than its own bytes" }
    }
}

private const val RED = 19595
private const val GREEN = 38470
private const val BLUE = 7471
private const val HALF = 32768

/**
 * The numbers of one image as a model's input, in the order of its layout; [size] stands in for the input's own.
 *
 * In double precision from the bytes on and rounded once, as in every other language, so that any two come within 1e-6.
 * Throws [BundleException] where the input takes no image, or one of another size that is not resized.
 */
fun prepare(pixels: Pixels, input: Input, size: Size? = null): FloatArray {
    val steps = input.preprocessing
        ?: throw BundleException("${input.name} takes no image: the manifest has no preprocessing")
    val wanted = size ?: steps.size
    val channels = steps.channels
    val image = resized(pixels, wanted, steps)
    val area = wanted.height * wanted.width
    return FloatArray(area * channels) { index ->
        val pixel = if (input.layout == "NHWC") index / channels else index % area
        val channel = if (input.layout == "NHWC") index % channels else index / area
        ((image[pixel * channels + channel] * steps.scale - steps.mean[channel]) / steps.std[channel]).toFloat()
    }
}

/** One row in the wanted colours: gray, RGB or BGR. */
internal fun colors(pixels: Pixels, row: Int, color: String, into: IntArray) {
    val channels = if (color == "gray") 1 else 3
    for (x in 0 until pixels.width) {
        val at = (row * pixels.width + x) * pixels.channels
        val red = pixels.bytes[at].toInt() and 255
        val green = if (pixels.channels == 1) red else pixels.bytes[at + 1].toInt() and 255
        val blue = if (pixels.channels == 1) red else pixels.bytes[at + 2].toInt() and 255
        when {
            channels == 1 -> into[x] = if (pixels.channels == 1) red else luma(red, green, blue)
            else -> {
                into[3 * x] = if (color == "BGR") blue else red
                into[3 * x + 1] = green
                into[3 * x + 2] = if (color == "BGR") red else blue
            }
        }
    }
}

private fun luma(red: Int, green: Int, blue: Int) = (RED * red + GREEN * green + BLUE * blue + HALF) shr 16

/** Doubles (height, width, channel) in the wanted size: rows are summed first, then columns. */
private fun resized(pixels: Pixels, wanted: Size, steps: Preprocessing): DoubleArray {
    val given = Size(pixels.height, pixels.width)
    if (steps.resize == "none" && given != wanted) {
        throw BundleException("the image is $given, the model takes $wanted")
    }
    val (rows, columns) = windows(given, wanted, steps)
    val channels = steps.channels
    val found = DoubleArray(wanted.height * wanted.width * channels)
    val bytes = IntArray(pixels.width * channels)
    val sums = DoubleArray(pixels.width * channels)
    rows.forEachIndexed { i, row ->
        sums.fill(0.0)
        row.weights.forEachIndexed { k, weight ->
            colors(pixels, row.first + k, steps.color, bytes)
            for (x in sums.indices) sums[x] += weight * bytes[x]
        }
        columns.forEachIndexed { j, column ->
            for (c in 0 until channels) {
                var sum = 0.0
                column.weights.forEachIndexed { k, weight -> sum += weight * sums[(column.first + k) * channels + c] }
                found[(i * wanted.width + j) * channels + c] = sum
            }
        }
    }
    return found
}

/** How much pixels from [first] on count for one of the result. */
private class Window(val first: Int, val weights: DoubleArray)

private fun windows(given: Size, wanted: Size, steps: Preprocessing): Pair<List<Window>, List<Window>> {
    val same = given == wanted
    var (height, width) = given.height.toDouble() to given.width.toDouble()
    if (steps.resize == "centre-crop") {
        val factor = min(height / wanted.height, width / wanted.width)
        height = wanted.height * factor
        width = wanted.width * factor
    }
    val nearest = same || steps.interpolation == "nearest"
    return side(given.height, height, wanted.height, nearest) to side(given.width, width, wanted.width, nearest)
}

/** For each of [wanted] pixels, which span [part] in the middle of a side of [whole]. */
private fun side(whole: Int, part: Double, wanted: Int, nearest: Boolean): List<Window> {
    val step = part / wanted
    return List(wanted) { i ->
        val centre = (whole - part) / 2 + (i + 0.5) * step
        if (nearest) {
            Window(floor(centre).toInt().coerceIn(0, whole - 1), doubleArrayOf(1.0))
        } else {
            triangle(whole, centre, max(step, 1.0))
        }
    }
}

private fun triangle(whole: Int, centre: Double, reach: Double): Window {
    val first = max(0, floor(centre - reach - 0.5).toInt())
    val last = min(whole - 1, ceil(centre + reach).toInt())
    val weights = DoubleArray(last - first + 1) { max(0.0, 1 - abs(first + it + 0.5 - centre) / reach) }
    val sum = weights.sum()
    return Window(first, DoubleArray(weights.size) { weights[it] / sum })
}
