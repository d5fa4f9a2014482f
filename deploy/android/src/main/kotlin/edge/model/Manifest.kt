package edge.model

/** Name, dtype and shape of an input or output; a null in the shape is a free size. */
open class Spec(val name: String, val dtype: String, val shape: List<Long?>)

/** An input; [layout] (NCHW or NHWC) and [preprocessing] only of an image. */
class Input(
    name: String,
    dtype: String,
    shape: List<Long?>,
    val layout: String?,
    val preprocessing: Preprocessing?,
) : Spec(name, dtype, shape) {
    /** The shape of one image of a height and width. */
    internal fun imageShape(size: Size): List<Long> {
        val (height, width) = size.height.toLong() to size.width.toLong()
        val channels = preprocessing?.channels?.toLong() ?: 0
        return if (layout == "NHWC") listOf(1, height, width, channels) else listOf(1, channels, height, width)
    }
}

/** An output; [kind] is logits, probabilities, ...; [labels] the path of a text with the name of a class a line. */
class Output(name: String, dtype: String, shape: List<Long?>, val kind: String, val labels: String?) :
    Spec(name, dtype, shape)

/** Pixels. */
data class Size(val height: Int, val width: Int) {
    override fun toString() = "$height x $width"
}

/** How bytes of an image become an input; see [prepare]. */
class Preprocessing(
    val size: Size,
    val color: String,
    val resize: String,
    val interpolation: String,
    val scale: Double,
    val mean: List<Double>,
    val std: List<Double>,
) {
    val channels: Int get() = if (color == "gray") 1 else 3
}

/** A raw file: numbers, little-endian, last axis fastest. */
class TensorFile(val name: String, val path: String, val dtype: String, val shape: List<Long>)

/** Bytes of another size, and what preprocessing with [size] makes of them. */
class Resized(val size: Size, val pixels: TensorFile, val prepared: TensorFile)

/** One image from its bytes over the prepared input to the answer. */
class GoldenImage(
    val pixels: TensorFile,
    val png: String,
    val prepared: TensorFile,
    val outputs: List<TensorFile>,
    val resized: Resized?,
    val tolerance: Double,
    val pngTolerance: Long,
)

/** What has to come out for what. */
class Golden(val inputs: List<TensorFile>, val outputs: List<TensorFile>, val image: GoldenImage?)

/** A file of the bundle. */
class ListedFile(val path: String, val role: String, val sizeBytes: Long, val sha256: String)

/** What `manifest.json` says; [readManifest] reads it. */
class Manifest(
    val platform: String,
    val model: String,
    val modelFile: String,
    val target: String,
    val precision: String,
    val runner: String?,
    val tolerance: Double,
    val inputs: List<Input>,
    val outputs: List<Output>,
    val golden: Golden,
    val files: List<ListedFile>,
) {
    companion object {
        const val FILE = "manifest.json"
        const val KIND = "edgecompress.bundle"
        const val VERSION = 2L
        const val LARGEST_BYTES = 1 shl 24
        const val MOST_FILES = 2000
    }
}

/** Bytes of one number in a raw file. */
internal val ITEM_BYTES = mapOf(
    "float32" to 4, "float64" to 8, "float16" to 2, "int64" to 8, "int32" to 4, "int16" to 2, "int8" to 1, "uint8" to 1,
    "bool" to 1,
)
