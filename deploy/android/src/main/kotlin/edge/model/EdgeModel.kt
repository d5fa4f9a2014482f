package edge.model

import java.io.Closeable
import kotlin.math.exp

/** A class, and how likely it is. */
data class Scored(val label: String, val score: Double)

/**
 * The model of one bundle, which answers only after the bundle was found whole and the model to answer as it must.
 *
 * Nothing here is of Android: the same class runs on a JVM. [open] checks, in this order, the manifest, every file, the
 * golden pair and the golden image, and throws [BundleException] at the first that fails. It may take a second: call it
 * from a thread of your own. [run] and [classify] may be called from several threads.
 */
class EdgeModel private constructor(
    val manifest: Manifest,
    val labels: List<String>,
    /** What [open] found. */
    val report: Report,
    private val session: Session,
) : Closeable {
    /** All outputs by name; throws [BundleException] where inputs are not the model's, or an answer is NaN. */
    fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
        val found = session.run(inputs)
        for ((name, output) in found) {
            if (output.doubles().any { it.isNaN() }) throw BundleException("output $name holds NaN")
        }
        return found
    }

    /** An image of any size as the model's first input; throws [BundleException] if it takes none. */
    fun prepared(pixels: Pixels): Tensor {
        val taking = manifest.inputs.first()
        val numbers = prepare(pixels, taking)
        return Tensor.of(numbers, taking.imageShape(taking.preprocessing!!.size))
    }

    /** The classes of an image, likeliest first; throws [BundleException] of a model that takes or gives others. */
    fun classify(pixels: Pixels): List<Scored> {
        val output = manifest.outputs.first()
        if (manifest.inputs.size != 1 || output.kind !in listOf("logits", "probabilities")) {
            throw BundleException("the model does not give scores of classes for one image; use run()")
        }
        val taking = manifest.inputs.first().name
        val numbers = run(mapOf(taking to prepared(pixels))).getValue(output.name).doubles()
        val scores = if (output.kind == "logits") softmax(numbers) else numbers.toList()
        return scores.mapIndexed { index, score -> Scored(labels.getOrElse(index) { "class $index" }, score) }
            .sortedByDescending { it.score }
    }

    override fun close() = session.close()

    companion object {
        /** Telemetry of ONNX Runtime 1.29 and newer starts with its environment, unless this is 1 before. */
        const val QUIET = "ORT_DISABLE_TELEMETRY"

        /**
         * The bundle's model, once all is proved.
         *
         * [decode] makes pixels of a PNG, to check the platform's own decoder (null: it is not checked); [threads] are
         * those of one run, 0: as ONNX Runtime likes; [variable] reads an environment variable.
         */
        fun open(
            files: BundleFiles,
            decode: ((ByteArray) -> Pixels)? = null,
            threads: Int = 0,
            variable: (String) -> String? = System::getenv,
        ): EdgeModel {
            val bundle = WholeBundle.read(files)
            val manifest = bundle.manifest
            if (manifest.target !in listOf("onnx", "ort")) {
                throw BundleException("ONNX Runtime runs no ${manifest.target}")
            }
            if (variable(QUIET) != "1") {
                throw BundleException("set $QUIET=1 before ONNX Runtime loads: it reports to its vendor")
            }
            val labels = manifest.outputs.first().labels?.let { lines(bundle.bytes(it)) }.orEmpty()
            val session = Session(manifest, bundle.bytes(manifest.modelFile), threads)
            try {
                return EdgeModel(manifest, labels, Checks(bundle, session, decode).report(), session)
            } catch (error: Throwable) {
                session.close()
                throw error
            }
        }

        /** What [open] finds, whatever it is. */
        fun check(files: BundleFiles, decode: ((ByteArray) -> Pixels)? = null): Report = try {
            open(files, decode).use { it.report }
        } catch (error: BundleException) {
            Report(null, error.message)
        }

        private fun lines(bytes: ByteArray) = String(bytes, Charsets.UTF_8).removeSuffix("\n").split('\n')

        private fun softmax(logits: DoubleArray): List<Double> {
            val largest = logits.max()
            val powers = logits.map { exp(it - largest) }
            val sum = powers.sum()
            return powers.map { it / sum }
        }
    }
}
