package edge.model

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.io.Closeable
import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.max

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
    private val environment: OrtEnvironment,
    private val session: OrtSession,
) : Closeable {
    /** What [open] found. */
    lateinit var report: Report
        private set

    /** All outputs by name; throws [BundleException] where inputs are not the model's, or an answer is NaN. */
    fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
        val found = answers(inputs)
        for ((name, output) in found) {
            if (output.doubles().any { it.isNaN() }) throw BundleException("output $name holds NaN")
        }
        return found
    }

    /** An image of any size as the model's first input. */
    fun prepared(pixels: Pixels): Tensor {
        val taking = manifest.inputs.first()
        return Tensor.of(prepare(pixels, taking), taking.imageShape(taking.preprocessing!!.size))
    }

    /** The classes of an image, likeliest first; throws [BundleException] of a model that takes or gives others. */
    fun classify(pixels: Pixels): List<Scored> {
        val output = manifest.outputs.first()
        if (manifest.inputs.size != 1 || output.kind !in listOf("logits", "probabilities")) {
            throw BundleException("the model does not give scores of classes for one image; use run()")
        }
        val taking = manifest.inputs.first().name
        val numbers = run(mapOf(taking to prepared(pixels))).getValue(output.name).doubles()
        val scores = if (output.kind == "logits") softmax(numbers) else numbers
        return scores.mapIndexed { index, score -> Scored(labels.getOrElse(index) { "class $index" }, score) }
            .sortedByDescending { it.score }
    }

    override fun close() = session.close()

    private fun answers(inputs: Map<String, Tensor>): Map<String, Tensor> {
        if (inputs.keys != manifest.inputs.map { it.name }.toSet()) {
            throw BundleException("inputs are ${inputs.keys}, the model takes ${manifest.inputs.map { it.name }}")
        }
        for (spec in manifest.inputs) {
            val given = inputs.getValue(spec.name)
            if (!fits(given.dtype, given.shape, spec)) {
                throw BundleException("input ${spec.name} is ${given.dtype} ${given.shape}, the model takes ${spec.dtype} ${spec.shape}")
            }
        }
        val fed = LinkedHashMap<String, OnnxTensor>()
        try {
            for ((name, tensor) in inputs) fed[name] = fed(tensor)
            return session.run(fed).use { result -> manifest.outputs.associate { it.name to output(it, result) } }
        } catch (error: OrtException) {
            throw BundleException("the model does not run: ${error.message}")
        } finally {
            fed.values.forEach { it.close() }
        }
    }

    private fun fed(tensor: Tensor): OnnxTensor {
        val type = TYPES[tensor.dtype] ?: throw BundleException("ONNX Runtime's Java API has no ${tensor.dtype}")
        return OnnxTensor.createTensor(environment, tensor.data, tensor.shape.toLongArray(), type)
    }

    private fun output(spec: Output, result: OrtSession.Result): Tensor {
        val value = result.get(spec.name).orElse(null) as? OnnxTensor ?: throw BundleException("output ${spec.name} is none")
        val dtype = dtypeOf(value.info)
        return Tensor(dtype, value.info.shape.toList(), value.byteBuffer)
    }

    /** Prove that the model has the inputs and outputs that the manifest says, in order. */
    private fun checkSignature() {
        val sides = listOf(
            Triple("inputs", manifest.inputs, session.inputInfo),
            Triple("outputs", manifest.outputs, session.outputInfo),
        )
        for ((side, specs, infos) in sides) {
            val own = infos.map { (name, info) ->
                val tensor = info.info as? TensorInfo ?: malformed("$side: $name of the model is no tensor")
                listOf(name, dtypeOf(tensor), tensor.shape.map { size -> size.takeIf { it >= 0 } })
            }
            val declared = specs.map { listOf(it.name, it.dtype, it.shape) }
            if (own != declared) malformed("$side $declared are not the model's $own")
        }
    }

    /** How far the answers for golden inputs are from those that are expected. */
    private fun goldenError(inputs: List<TensorFile>, outputs: List<TensorFile>, bundle: WholeBundle): Double {
        val found = answers(inputs.associate { it.name to Tensor.of(it, bundle.bytes(it.path)) })
        return outputs.maxOf { difference("output ${it.name}", found.getValue(it.name), Tensor.of(it, bundle.bytes(it.path))) }
    }

    private fun check(bundle: WholeBundle, decode: ((ByteArray) -> Pixels)?): Report {
        val golden = manifest.golden
        val pair = goldenError(golden.inputs, golden.outputs, bundle)
        if (!(pair <= manifest.tolerance)) {
            throw BundleException("the golden pair differs by ${"%.2e".format(pair)} of the output's scale (allowed ${manifest.tolerance})")
        }
        val image = golden.image
        val found = Report(manifest.model, null, manifest.files.size, pair, runtime = "onnxruntime ${environment.version}")
        if (image == null) return found
        val prepared = imageError(image, manifest.inputs.first(), bundle)
        if (image.outputs.isNotEmpty()) checkImageAnswer(image, bundle)
        val off = decode?.let { pngError(image, bundle, it) }
        return found.copy(imageError = prepared, pngError = off)
    }

    private fun checkImageAnswer(image: GoldenImage, bundle: WholeBundle) {
        val answer = goldenError(listOf(image.prepared), image.outputs, bundle)
        if (!(answer <= manifest.tolerance)) {
            throw BundleException("the golden image's answer differs by ${"%.2e".format(answer)} (allowed ${manifest.tolerance})")
        }
    }

    companion object {
        /** Telemetry of ONNX Runtime 1.29 and newer starts with its environment, unless this is 1 before. */
        const val QUIET = "ORT_DISABLE_TELEMETRY"
        private val TYPES = mapOf(
            "float32" to OnnxJavaType.FLOAT, "float64" to OnnxJavaType.DOUBLE, "float16" to OnnxJavaType.FLOAT16,
            "int64" to OnnxJavaType.INT64, "int32" to OnnxJavaType.INT32, "int16" to OnnxJavaType.INT16,
            "int8" to OnnxJavaType.INT8, "uint8" to OnnxJavaType.UINT8, "bool" to OnnxJavaType.BOOL,
        )

        private fun dtypeOf(info: TensorInfo): String =
            TYPES.entries.firstOrNull { it.value == info.type }?.key ?: "${info.type}"

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
            if (manifest.target !in listOf("onnx", "ort")) throw BundleException("ONNX Runtime runs no ${manifest.target}")
            if (variable(QUIET) != "1") throw BundleException("set $QUIET=1 before ONNX Runtime loads: it reports to its vendor")
            val found = loaded(bundle, threads)
            try {
                found.checkSignature()
                found.report = found.check(bundle, decode)
            } catch (error: Throwable) {
                found.close()
                throw error
            }
            return found
        }

        /** What [open] finds, whatever it is. */
        fun check(
            files: BundleFiles,
            decode: ((ByteArray) -> Pixels)? = null,
            variable: (String) -> String? = System::getenv,
        ): Report = try {
            open(files, decode, 0, variable).use { it.report }
        } catch (error: BundleException) {
            Report(null, error.message)
        }

        private fun loaded(bundle: WholeBundle, threads: Int): EdgeModel {
            val manifest = bundle.manifest
            val labels = manifest.outputs.first().labels?.let { lines(bundle.bytes(it)) }.orEmpty()
            try {
                val environment = OrtEnvironment.getEnvironment()
                environment.setTelemetry(false)
                val session = OrtSession.SessionOptions().use {
                    if (threads > 0) it.setIntraOpNumThreads(threads)
                    environment.createSession(bundle.bytes(manifest.modelFile), it)
                }
                return EdgeModel(manifest, labels, environment, session)
            } catch (error: OrtException) {
                throw BundleException("${manifest.modelFile} does not load: ${error.message}")
            } catch (error: LinkageError) {
                throw BundleException("ONNX Runtime's library does not load on this device: $error")
            }
        }

        private fun lines(bytes: ByteArray) = String(bytes, Charsets.UTF_8).removeSuffix("\n").split('\n')

        private fun softmax(logits: DoubleArray): DoubleArray {
            val largest = logits.max()
            val powers = logits.map { exp(it - largest) }
            val sum = powers.sum()
            return DoubleArray(powers.size) { powers[it] / sum }
        }
    }
}

/** How far pixels prepared here are from those of the bundle. */
internal fun imageError(image: GoldenImage, taking: Input, bundle: WholeBundle): Double {
    val pairs = listOfNotNull(
        Triple(image.pixels, image.prepared, null),
        image.resized?.let { Triple(it.pixels, it.prepared, it.size) },
    )
    val worst = pairs.maxOf { (pixels, prepared, size) ->
        val ours = prepare(pixels(pixels, bundle), taking, size)
        val theirs = Tensor.of(prepared, bundle.bytes(prepared.path))
        difference("the prepared golden image", DoubleArray(ours.size) { ours[it].toDouble() }, theirs.doubles())
    }
    if (!(worst <= image.tolerance)) {
        throw BundleException("the golden image is prepared with an error of ${"%.2e".format(worst)} (allowed ${image.tolerance})")
    }
    return worst
}

private fun pixels(file: TensorFile, bundle: WholeBundle): Pixels {
    val (height, width, channels) = file.shape.map { it.toInt() }
    return Pixels(height, width, channels, bundle.bytes(file.path))
}

/** How many steps a byte of the decoded PNG is off at most. */
internal fun pngError(image: GoldenImage, bundle: WholeBundle, decode: (ByteArray) -> Pixels): Int {
    val wanted = pixels(image.pixels, bundle)
    val decoded = decode(bundle.bytes(image.png))
    if (decoded.height != wanted.height || decoded.width != wanted.width) {
        throw BundleException("the golden image's PNG is decoded to other than ${wanted.height} x ${wanted.width} pixels")
    }
    val color = if (wanted.channels == 1) "gray" else "RGB"
    val (ours, theirs) = IntArray(wanted.width * wanted.channels) to IntArray(wanted.width * wanted.channels)
    var worst = 0
    for (row in 0 until wanted.height) {
        colors(decoded, row, color, ours)
        colors(wanted, row, color, theirs)
        for (i in ours.indices) worst = max(worst, abs(ours[i] - theirs[i]))
    }
    if (worst > image.pngTolerance) {
        throw BundleException("the golden image's PNG is decoded with bytes off by $worst (allowed ${image.pngTolerance})")
    }
    return worst
}
