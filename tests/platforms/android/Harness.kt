package edge.model

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** What the tests in Python ask the core class, several questions in one process; a line for each on standard output. */
fun main(arguments: Array<String>) {
    val rest = arguments.drop(1)
    when (arguments[0]) {
        "check" -> rest.forEach { println(EdgeModel.check(FolderFiles(File(it)), ::decodePng).toJson()) }
        "manifests" -> rest.forEach { println(verdict { readManifest(File(it).readBytes()) }) }
        "paths" -> rest.forEach { println(isPath(File(it).readText())) }
        "prepare" -> rest.chunked(6).forEach { println(verdict { prepared(it) }) }
        "loud" -> ai.onnxruntime.OrtEnvironment.getEnvironment().use { println("loaded") }
        else -> error("${arguments[0]}?")
    }
}

private fun verdict(act: () -> Unit): String = try {
    act()
    "taken"
} catch (error: BundleException) {
    "refused: ${error.message}"
}

/** Manifest, height, width, channels, pixels: a file with what is prepared of them. */
private fun prepared(words: List<String>) {
    val (height, width, channels) = words.subList(1, 4).map { it.toInt() }
    val pixels = Pixels(height, width, channels, File(words[4]).readBytes())
    val numbers = prepare(pixels, readManifest(File(words[0]).readBytes()).inputs.first())
    val bytes = ByteBuffer.allocate(4 * numbers.size).order(ByteOrder.LITTLE_ENDIAN)
    bytes.asFloatBuffer().put(numbers)
    File(words[5]).writeBytes(bytes.array())
}
