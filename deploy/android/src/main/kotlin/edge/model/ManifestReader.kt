package edge.model

private val ROLES = listOf("model", "golden", "labels", "runtime", "code", "text")
private val KINDS = listOf("logits", "probabilities", "classes", "boxes", "embedding", "image", "tensor")
private val PATH = Regex("[A-Za-z0-9_][A-Za-z0-9_.+@=-]*(/[A-Za-z0-9_][A-Za-z0-9_.+@=-]*)*")
private val DIGEST = Regex("[0-9a-f]{64}")
private const val LONGEST_PATH = 200
private const val LARGEST_SIDE = Int.MAX_VALUE.toLong()

/** Whether this is the path of a file in a bundle, which leads out of it by no way. */
fun isPath(text: String): Boolean = text.length <= LONGEST_PATH && PATH.matches(text)

internal fun malformed(what: String): Nothing =
    throw BundleException("${Manifest.FILE} is malformed: $what; make the bundle again")

/**
 * The manifest in these bytes, of unknown origin: everything in it is what it must be and fits the rest.
 *
 * Throws [BundleException], which names what is not.
 */
fun readManifest(bytes: ByteArray): Manifest {
    if (bytes.size > Manifest.LARGEST_BYTES) {
        throw BundleException("${Manifest.FILE} has more than ${Manifest.LARGEST_BYTES} bytes, which no manifest needs")
    }
    val document = try {
        Json.parse(bytes)
    } catch (error: JsonError) {
        throw BundleException("${Manifest.FILE} is no JSON document: ${error.message}")
    }
    if (document !is Map<*, *> || document["kind"] != Manifest.KIND) malformed("its kind is not ${Manifest.KIND}")
    if (document["version"] != Manifest.VERSION) malformed("its version is not ${Manifest.VERSION}")
    val found = manifest(Node(document, ""))
    checkConsistent(found)
    return found
}

/** A value of the document and where it is. */
private class Node(private val value: Any?, private val at: String) {
    fun bad(why: String): Nothing = malformed("$at $why")

    operator fun get(key: String): Node {
        val map = value as? Map<*, *> ?: bad("is no object")
        val name = if (at.isEmpty()) key else "$at.$key"
        if (!map.containsKey(key)) malformed("$name is not there")
        return Node(map[key], name)
    }

    fun <T> orNull(read: (Node) -> T): T? = if (value == null) null else read(this)

    fun list(): List<Node> {
        val values = value as? List<*> ?: bad("is no list")
        return values.mapIndexed { index, one -> Node(one, "$at[$index]") }
    }

    fun <T> several(read: (Node) -> T): List<T> = list().ifEmpty { bad("is no list of at least one") }.map(read)

    fun isObject(): Node = if (value is Map<*, *>) this else bad("is no object")

    fun text(): String = value as? String ?: bad("is no text")

    fun oneOf(values: Collection<String>): String =
        (value as? String)?.takeIf { it in values } ?: bad("is none of ${values.joinToString()}")

    fun path(): String = text().also { if (!isPath(it)) bad("'$it' is not that of a file in a bundle") }

    fun digest(): String = text().also { if (!DIGEST.matches(it)) bad("is none") }

    fun count(least: Long = 0): Long =
        (value as? Long)?.takeIf { it >= least } ?: bad("is no whole number from $least on")

    fun number(): Double = when (value) {
        is Long -> value.toDouble()
        is Double -> value
        else -> bad("is no finite number")
    }

    fun fraction(): Double = number().also { if (!(it > 0 && it <= 1)) bad("is no fraction") }

    /** Sizes; null where there is a name. */
    fun shape(): List<Long?> = list().map { if (it.value is String) null else it.side() }

    fun side(): Long = count(1).also { if (it > LARGEST_SIDE) bad("is too large") }

    fun size(): Size {
        val sides = list()
        if (sides.size != 2) bad("is not height and width")
        return Size(sides[0].side().toInt(), sides[1].side().toInt())
    }
}

private fun manifest(of: Node): Manifest {
    of["runtime"]["name"].text()
    for (key in listOf("model", "runtime")) of["licences"][key].orNull { it.text() }
    for (key in listOf("compiled_with", "run_on", "not_run")) of["verified"][key].list().forEach { it.text() }
    return Manifest(
        platform = of["platform"].text(),
        model = of["model"].text(),
        modelFile = of["model_file"].path(),
        target = of["target"].text(),
        precision = of["precision"].text(),
        runner = of["runner"].orNull { it.path() },
        tolerance = of["tolerance"].fraction(),
        inputs = of["inputs"].several(::input),
        outputs = of["outputs"].several(::output),
        golden = golden(of["golden"]),
        files = of["files"].several(::file),
    )
}

private fun input(of: Node) = Input(
    of["name"].text(),
    of["dtype"].oneOf(ITEM_BYTES.keys),
    of["shape"].shape(),
    of["layout"].orNull { it.oneOf(listOf("NCHW", "NHWC")) },
    of["preprocessing"].orNull(::preprocessing),
)

private fun output(of: Node) = Output(
    of["name"].text(),
    of["dtype"].oneOf(ITEM_BYTES.keys),
    of["shape"].shape(),
    of["kind"].oneOf(KINDS),
    of["labels"].orNull { it.path() },
)

private fun preprocessing(of: Node): Preprocessing {
    val found = Preprocessing(
        size = of["size"].size(),
        color = of["color"].oneOf(listOf("gray", "RGB", "BGR")),
        resize = of["resize"].oneOf(listOf("none", "stretch", "centre-crop")),
        interpolation = of["interpolation"].oneOf(listOf("nearest", "bilinear")),
        scale = of["scale"].number(),
        mean = of["mean"].list().map { it.number() },
        std = of["std"].list().map { it.number() },
    )
    for (key in listOf("mean", "std")) {
        val count = of[key].list().size
        if (count != found.channels) of[key].bad("has $count numbers, and not one for each channel")
    }
    if (found.scale == 0.0) of["scale"].bad("is 0")
    if (0.0 in found.std) of["std"].bad("holds 0")
    return found
}

private fun golden(of: Node) = Golden(
    of["inputs"].several(::tensorFile),
    of["outputs"].several(::tensorFile),
    of["image"].orNull(::image),
)

private fun tensorFile(of: Node): TensorFile {
    val shape = of["shape"].list().map { it.side() }
    return TensorFile(of["name"].text(), of["path"].path(), of["dtype"].oneOf(ITEM_BYTES.keys), shape)
}

private fun image(of: Node) = GoldenImage(
    pixels = tensorFile(of["pixels"]),
    png = of["png"].path(),
    prepared = tensorFile(of["prepared"]),
    outputs = of["outputs"].list().map(::tensorFile),
    resized = of["resized"].orNull(::resized),
    tolerance = of["tolerance"].fraction(),
    pngTolerance = of["png_tolerance"].count(),
)

private fun resized(of: Node) =
    Resized(of["size"].size(), tensorFile(of["pixels"]), tensorFile(of["prepared"]))

private fun file(of: Node): ListedFile {
    of.isObject()
    return ListedFile(
        of["path"].path(),
        of["role"].oneOf(ROLES),
        of["size_bytes"].count(),
        of["sha256"].digest(),
    )
}
