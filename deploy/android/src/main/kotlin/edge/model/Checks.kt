package edge.model

import kotlin.math.abs
import kotlin.math.max

/** Does the model answer as it must, and are images prepared and decoded as they must be? */
internal class Checks(
    private val bundle: WholeBundle,
    private val session: Session,
    private val decode: ((ByteArray) -> Pixels)?,
) {
    private val manifest = bundle.manifest

    /** What was found; throws [BundleException] at the first that fails. */
    fun report(): Report {
        session.checkSignature()
        val golden = manifest.golden
        val pair = answered("the golden pair", golden.inputs, golden.outputs)
        val found = Report(manifest.model, null, manifest.files.size, pair, runtime = session.runtime)
        val image = golden.image ?: return found
        val prepared = imageError(image)
        if (image.outputs.isNotEmpty()) answered("the golden image's answer", listOf(image.prepared), image.outputs)
        return found.copy(imageError = prepared, pngError = decode?.let { pngError(image, it) })
    }

    /** How far the answers for [inputs] are from [outputs]. */
    private fun answered(what: String, inputs: List<TensorFile>, outputs: List<TensorFile>): Double {
        val found = session.run(inputs.associate { it.name to tensor(it) })
        val worst = outputs.maxOf { difference("output ${it.name}", found.getValue(it.name), tensor(it)) }
        if (!(worst <= manifest.tolerance)) {
            throw BundleException("$what differs by ${short(worst)} of the largest (allowed ${manifest.tolerance})")
        }
        return worst
    }

    /** How far pixels prepared here are from those of the bundle. */
    private fun imageError(image: GoldenImage): Double {
        val pairs = listOfNotNull(
            Triple(image.pixels, image.prepared, null),
            image.resized?.let { Triple(it.pixels, it.prepared, it.size) },
        )
        val worst = pairs.maxOf { (pixels, prepared, size) ->
            val ours = Tensor.of(prepare(pixels(pixels), manifest.inputs.first(), size), prepared.shape)
            difference("the prepared golden image", ours, tensor(prepared))
        }
        if (!(worst <= image.tolerance)) {
            throw BundleException("the golden image is prepared off by ${short(worst)} (allowed ${image.tolerance})")
        }
        return worst
    }

    /** How many steps a byte of the decoded PNG is off at most. */
    private fun pngError(image: GoldenImage, decode: (ByteArray) -> Pixels): Int {
        val wanted = pixels(image.pixels)
        val decoded = decode(bundle.bytes(image.png))
        val size = Size(wanted.height, wanted.width)
        if (Size(decoded.height, decoded.width) != size) {
            throw BundleException("the golden image's PNG is not decoded to $size pixels")
        }
        val worst = (0 until wanted.height).maxOf { row -> rowError(decoded, wanted, row) }
        if (worst > image.pngTolerance) {
            throw BundleException("the golden image's PNG is decoded off by $worst (allowed ${image.pngTolerance})")
        }
        return worst
    }

    private fun rowError(decoded: Pixels, wanted: Pixels, row: Int): Int {
        val color = if (wanted.channels == 1) "gray" else "RGB"
        val (ours, theirs) = listOf(decoded, wanted).map { image ->
            IntArray(wanted.width * wanted.channels).also { colors(image, row, color, it) }
        }
        return ours.indices.fold(0) { worst, i -> max(worst, abs(ours[i] - theirs[i])) }
    }

    private fun tensor(file: TensorFile) = Tensor.of(file, bundle.bytes(file.path))

    private fun pixels(file: TensorFile): Pixels {
        val (height, width, channels) = file.shape.map { it.toInt() }
        return Pixels(height, width, channels, bundle.bytes(file.path))
    }
}
