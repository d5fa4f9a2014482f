package edge.model

import android.content.Context
import android.content.pm.PackageManager
import android.content.res.AssetManager
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.ColorSpace
import android.os.Build
import android.system.Os
import java.io.InputStream

/** The folder of assets that a bundle is in. */
const val ASSETS = "edge_model"

/** A folder of an app's assets. */
class AssetFiles(private val assets: AssetManager, private val folder: String = ASSETS) : BundleFiles {
    override fun list(): List<String> = below("")

    override fun open(path: String): InputStream = assets.open("$folder/$path", AssetManager.ACCESS_STREAMING)

    /** An asset that has none below it is a file. */
    private fun below(path: String): List<String> {
        val names = assets.list(if (path.isEmpty()) folder else "$folder/$path").orEmpty().sorted()
        return names.flatMap { name ->
            val own = if (path.isEmpty()) name else "$path/$name"
            below(own).ifEmpty { listOf(own) }
        }
    }
}

/** What the AAR of ONNX Runtime 1.29 and newer adds to an app's manifest, and this module's manifest removes. */
private const val INITIALIZER = "ai.onnxruntime.TelemetryInitializer"

/**
 * The model in this app's assets, or in other [files], once all is proved; not on the main thread.
 *
 * Telemetry is off before ONNX Runtime loads, in the whole process. [threads] are those of one run, 0: as ONNX Runtime
 * likes. Throws [BundleException].
 */
fun openEdgeModel(context: Context, files: BundleFiles = AssetFiles(context.assets), threads: Int = 0): EdgeModel {
    silence(context)
    return EdgeModel.open(files, ::decodeImage, threads, Os::getenv)
}

/** What [openEdgeModel] finds, whatever it is. */
fun checkEdgeModel(context: Context): Report = try {
    openEdgeModel(context).use { it.report }
} catch (error: BundleException) {
    Report(null, error.message)
}

private fun silence(context: Context) {
    Os.setenv(EdgeModel.QUIET, "1", true)
    val own = context.packageManager.getPackageInfo(context.packageName, PackageManager.GET_PROVIDERS)
    if (own.providers.orEmpty().any { it.name == INITIALIZER }) {
        val why = "which starts telemetry before any code: USE.md says how to remove it"
        throw BundleException("the app's manifest has $INITIALIZER, $why")
    }
}

/** A picture in a file's bytes (PNG, JPEG, WebP), in its own size; orientation in EXIF is not looked at. */
fun decodeImage(bytes: ByteArray): Pixels {
    val options = BitmapFactory.Options().apply {
        inScaled = false
        inPremultiplied = false
        inPreferredConfig = Bitmap.Config.ARGB_8888
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.O) {
            inPreferredColorSpace = ColorSpace.get(ColorSpace.Named.SRGB)
        }
    }
    val bitmap = BitmapFactory.decodeByteArray(bytes, 0, bytes.size, options)
        ?: throw BundleException("an image of ${bytes.size} bytes cannot be decoded")
    return try {
        bitmap.toPixels()
    } finally {
        bitmap.recycle()
    }
}

/** RGB of every pixel; what is transparent keeps its colour. */
fun Bitmap.toPixels(): Pixels {
    val hardware = Build.VERSION.SDK_INT >= Build.VERSION_CODES.O && config == Bitmap.Config.HARDWARE
    val readable = if (hardware) copy(Bitmap.Config.ARGB_8888, false) else this
    val row = IntArray(width)
    val bytes = ByteArray(3 * width * height)
    var at = 0
    for (y in 0 until height) {
        readable.getPixels(row, 0, width, 0, y, width, 1)
        for (color in row) {
            bytes[at++] = (color shr 16).toByte()
            bytes[at++] = (color shr 8).toByte()
            bytes[at++] = color.toByte()
        }
    }
    return Pixels(height, width, 3, bytes)
}
