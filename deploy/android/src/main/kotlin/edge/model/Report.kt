package edge.model

import java.util.Locale

/**
 * What a check of the bundle found where it ran; errors are fractions of the largest expected number.
 *
 * [imageError] is null of a model without images, [pngError] (of a byte) where there is no decoder, [reason] of what
 * passed.
 */
data class Report(
    val model: String?,
    val reason: String?,
    val files: Int = 0,
    val goldenError: Double? = null,
    val imageError: Double? = null,
    val pngError: Int? = null,
    val runtime: String? = null,
) {
    val ok: Boolean get() = reason == null

    /** The verdict in one line. */
    val line: String get() = if (ok) "ok: $model, $files files whole, ${errors()}" else "refused: $reason"

    private fun errors() = listOfNotNull(
        goldenError?.let { "golden error ${short(it)}" },
        imageError?.let { "image error ${short(it)}" },
        pngError?.let { "PNG off by $it" },
    ).joinToString()

    /** The same as a JSON object, on one line. */
    fun toJson(): String = Json.write(
        linkedMapOf(
            "ok" to ok,
            "platform" to "android",
            "model" to model,
            "reason" to reason,
            "files" to files,
            "max_relative_error" to goldenError,
            "image_error" to imageError,
            "png_error" to pngError,
            "runtime" to runtime,
        ),
    )
}

/** Two digits. */
internal fun short(error: Double): String = String.format(Locale.ROOT, "%.1e", error)
