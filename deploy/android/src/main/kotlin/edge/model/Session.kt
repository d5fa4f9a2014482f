package edge.model

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.io.Closeable

private val TYPES = mapOf(
    "float32" to OnnxJavaType.FLOAT, "float64" to OnnxJavaType.DOUBLE, "float16" to OnnxJavaType.FLOAT16,
    "int64" to OnnxJavaType.INT64, "int32" to OnnxJavaType.INT32, "int16" to OnnxJavaType.INT16,
    "int8" to OnnxJavaType.INT8, "uint8" to OnnxJavaType.UINT8, "bool" to OnnxJavaType.BOOL,
)

private fun dtypeOf(info: TensorInfo): String =
    TYPES.entries.firstOrNull { it.value == info.type }?.key ?: "${info.type}"

/** The model in ONNX Runtime, which proved to take and give what the manifest says, and nothing more. */
internal class Session(private val manifest: Manifest, model: ByteArray, threads: Int) : Closeable {
    private val environment: OrtEnvironment
    private val session: OrtSession

    /** Name and version. */
    val runtime: String get() = "onnxruntime ${environment.version}"

    init {
        try {
            environment = OrtEnvironment.getEnvironment()
            environment.setTelemetry(false)
            session = OrtSession.SessionOptions().use {
                if (threads > 0) it.setIntraOpNumThreads(threads)
                environment.createSession(model, it)
            }
        } catch (error: OrtException) {
            throw BundleException("${manifest.modelFile} does not load: ${error.message}")
        } catch (error: LinkageError) {
            throw BundleException("ONNX Runtime's library does not load on this device: $error")
        }
    }

    /** Prove that the model has the inputs and outputs that the manifest says, in order. */
    fun checkSignature() {
        checkSide("inputs", manifest.inputs, own("inputs"))
        checkSide("outputs", manifest.outputs, own("outputs"))
    }

    private fun own(side: String): List<Spec> {
        val infos = if (side == "inputs") session.inputInfo else session.outputInfo
        return infos.map { (name, info) ->
            val tensor = info.info as? TensorInfo ?: malformed("$side: $name of the model is no tensor")
            Spec(name, dtypeOf(tensor), tensor.shape.map { size -> size.takeIf { it >= 0 } })
        }
    }

    private fun checkSide(side: String, specs: List<Spec>, own: List<Spec>) {
        val (declared, found) = listOf(specs, own).map { all -> all.map { "${it.name} ${it.dtype} ${it.shape}" } }
        if (declared != found) malformed("$side $declared are not the model's $found")
    }

    /** All outputs by name; throws [BundleException]. */
    fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
        checkInputs(inputs)
        val fed = LinkedHashMap<String, OnnxTensor>()
        try {
            for ((name, tensor) in inputs) fed[name] = onnx(tensor)
            return session.run(fed).use { result -> manifest.outputs.associate { it.name to output(it.name, result) } }
        } catch (error: OrtException) {
            throw BundleException("the model does not run: ${error.message}")
        } finally {
            fed.values.forEach { it.close() }
        }
    }

    private fun checkInputs(inputs: Map<String, Tensor>) {
        val names = manifest.inputs.map { it.name }
        if (inputs.keys != names.toSet()) throw BundleException("inputs are ${inputs.keys}, the model takes $names")
        for (spec in manifest.inputs) {
            val given = inputs.getValue(spec.name)
            if (!fits(given.dtype, given.shape, spec)) {
                val wanted = "${spec.dtype} ${spec.shape}"
                throw BundleException("input ${spec.name} is ${given.dtype} ${given.shape}, the model takes $wanted")
            }
        }
    }

    private fun onnx(tensor: Tensor): OnnxTensor {
        val type = TYPES.getValue(tensor.dtype)
        return OnnxTensor.createTensor(environment, tensor.data, tensor.shape.toLongArray(), type)
    }

    private fun output(name: String, result: OrtSession.Result): Tensor {
        val value = result.get(name).orElse(null) as? OnnxTensor ?: throw BundleException("output $name is no tensor")
        return Tensor(dtypeOf(value.info), value.info.shape.toList(), value.byteBuffer)
    }

    override fun close() = session.close()
}
