package edge.model

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import kotlin.math.max

private const val LEAST_SCALE = 1e-6

/** Numbers of an input or output: [data] holds them little-endian, last axis fastest, in memory that C can read. */
class Tensor(val dtype: String, val shape: List<Long>, data: ByteBuffer) {
    val data: ByteBuffer = data.duplicate().order(ByteOrder.LITTLE_ENDIAN)

    init {
        val size = ITEM_BYTES[dtype] ?: throw BundleException("dtype $dtype is not known")
        require(shape.fold(size.toLong()) { all, side -> all * side } == data.remaining().toLong()) {
            "a tensor of $shape has not ${data.remaining()} bytes"
        }
    }

    /** All numbers; of bool 0 and 1. */
    fun doubles(): DoubleArray {
        val size = ITEM_BYTES.getValue(dtype)
        return DoubleArray(data.remaining() / size) { number(data.position() + it * size) }
    }

    private fun number(at: Int): Double = when (dtype) {
        "float32" -> data.getFloat(at).toDouble()
        "float64" -> data.getDouble(at)
        "float16" -> half(data.getShort(at).toInt())
        "int64" -> data.getLong(at).toDouble()
        "int32" -> data.getInt(at).toDouble()
        "int16" -> data.getShort(at).toDouble()
        "int8" -> data.get(at).toDouble()
        else -> (data.get(at).toInt() and 255).toDouble()
    }

    companion object {
        /** Of float32. */
        fun of(numbers: FloatArray, shape: List<Long>): Tensor {
            val data = memory(numbers.size * Float.SIZE_BYTES)
            data.asFloatBuffer().put(numbers)
            return Tensor("float32", shape, data)
        }

        /** The numbers of a golden file; throws [BundleException] if one is NaN, which proves nothing. */
        internal fun of(file: TensorFile, bytes: ByteArray): Tensor {
            val data = memory(bytes.size)
            data.duplicate().put(bytes)
            val found = Tensor(file.dtype, file.shape, data)
            if (found.doubles().any { it.isNaN() }) {
                throw BundleException("${file.path} holds NaN, which proves nothing")
            }
            return found
        }

        internal fun memory(size: Int): ByteBuffer = ByteBuffer.allocateDirect(size).order(ByteOrder.LITTLE_ENDIAN)
    }
}

/** A number of IEEE 754 in 16 bits. */
internal fun half(bits: Int): Double {
    val sign = if (bits and 0x8000 != 0) -1.0 else 1.0
    val exponent = bits shr 10 and 31
    val fraction = bits and 1023
    return sign * when (exponent) {
        0 -> Math.scalb(fraction.toDouble(), -24)
        31 -> if (fraction == 0) Double.POSITIVE_INFINITY else Double.NaN
        else -> Math.scalb((fraction or 1024).toDouble(), exponent - 25)
    }
}

/**
 * How far [ours] is from [theirs], as a fraction of their largest number; infinity must stand where it was expected.
 *
 * Throws [BundleException] where they cannot be compared: [what] says of what they are.
 */
internal fun difference(what: String, ours: Tensor, theirs: Tensor): Double {
    if (ours.shape != theirs.shape || ours.dtype != theirs.dtype) {
        throw BundleException("$what is ${ours.dtype} ${ours.shape}, ${theirs.dtype} ${theirs.shape} was expected")
    }
    return difference(what, ours.doubles(), theirs.doubles())
}

internal fun difference(what: String, ours: DoubleArray, theirs: DoubleArray): Double {
    var largest = LEAST_SCALE
    var worst = 0.0
    var compared = 0
    for (i in theirs.indices) {
        val (own, wanted) = ours[i] to theirs[i]
        if (wanted.isInfinite() && own == wanted) continue
        if (!own.isFinite() || !wanted.isFinite()) throw BundleException("$what holds NaN or infinity")
        largest = max(largest, abs(wanted))
        worst = max(worst, abs(own - wanted))
        compared++
    }
    if (compared == 0) throw BundleException("$what: no finite number was expected, so that nothing is compared")
    return worst / largest
}
