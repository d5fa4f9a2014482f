package edge.model

import java.util.Locale

/** Prove that the parts of a manifest fit one another: what one names, another has. */
internal fun checkConsistent(manifest: Manifest) {
    checkPaths(manifest.files)
    val roles = Roles(manifest.files)
    checkModelFile(manifest)
    checkSpecs("inputs", manifest.inputs, manifest.golden.inputs)
    checkSpecs("outputs", manifest.outputs, manifest.golden.outputs)
    manifest.inputs.filter { it.preprocessing != null }.forEach(::checkImageInput)
    for (one in manifest.golden.inputs + manifest.golden.outputs) roles.tensor("golden", one)
    for (one in manifest.outputs) one.labels?.let { roles.require("labels", it, "labels") }
    manifest.runner?.let { roles.require("runner", it, "code") }
    manifest.golden.image?.let { checkImage(manifest, it, roles) }
}

/** File systems that take A for a must not see two files in one. */
private fun checkPaths(files: List<ListedFile>) {
    if (files.size > Manifest.MOST_FILES) malformed("files lists more than ${Manifest.MOST_FILES}")
    val seen = HashSet<String>()
    for (file in files) {
        val path = file.path.lowercase(Locale.ROOT)
        if (path == Manifest.FILE) malformed("files lists ${Manifest.FILE} itself")
        if (!seen.add(path)) malformed("files: ${file.path} is listed twice")
    }
    for (path in seen) for (folder in foldersOf(path)) {
        if (folder in seen) malformed("files: $folder is a file and a folder")
    }
}

/** The folders that a path lies in. */
internal fun foldersOf(path: String): List<String> {
    val parts = path.split('/')
    return (1 until parts.size).map { parts.subList(0, it).joinToString("/") }
}

private fun checkModelFile(manifest: Manifest) {
    val own = manifest.modelFile
    val roles = manifest.files.filter { it.path == own || it.path.startsWith("$own/") }.map { it.role }.toSet()
    if (roles != setOf("model")) malformed("model_file $own is none of the files with the role model")
}

/** What is named is listed, in its role and with its size. */
private class Roles(files: List<ListedFile>) {
    private val listed = files.associateBy { it.path }

    fun require(what: String, path: String, role: String): ListedFile {
        val found = listed[path]
        if (found == null || found.role != role) malformed("$what: $path is none of the files with the role $role")
        return found
    }

    fun tensor(what: String, tensor: TensorFile) {
        val size = require(what, tensor.path, "golden").sizeBytes
        if (size != bytesOf(tensor)) malformed("$what: ${tensor.path} has not the bytes of its shape")
    }
}

private fun bytesOf(tensor: TensorFile): Long = try {
    tensor.shape.fold(ITEM_BYTES.getValue(tensor.dtype).toLong()) { all, side -> Math.multiplyExact(all, side) }
} catch (error: ArithmeticException) {
    -1
}

private fun checkSpecs(side: String, specs: List<Spec>, tensors: List<TensorFile>) {
    val names = specs.map { it.name }
    if (names.toSet().size != names.size) malformed("$side has a name twice")
    if (tensors.map { it.name } != names) malformed("golden: its $side are not the $side of the model")
    specs.zip(tensors) { spec, tensor ->
        if (!fits(tensor.dtype, tensor.shape, spec)) {
            malformed("golden: ${tensor.name} has not the dtype and shape of $side")
        }
    }
}

/** Whether a tensor has the dtype and the sizes of an input or output. */
internal fun fits(dtype: String, shape: List<Long>, spec: Spec): Boolean =
    dtype == spec.dtype && shape.size == spec.shape.size &&
        shape.zip(spec.shape).all { (own, one) -> one == null || own == one }

private fun checkImageInput(one: Input) {
    val size = one.preprocessing!!.size
    if (one.layout == null || one.dtype != "float32" || one.shape.size != 4) {
        malformed("inputs: ${one.name} has preprocessing, and is no image of float32 with a layout")
    }
    val own = listOf<Long?>(null) + one.shape.drop(1)
    if (!fits(one.dtype, one.imageShape(size), Spec(one.name, one.dtype, own))) {
        malformed("inputs: ${one.name} has not the size and channels of its preprocessing")
    }
}

private fun checkImage(manifest: Manifest, image: GoldenImage, roles: Roles) {
    val taking = manifest.inputs.first()
    val steps = taking.preprocessing ?: malformed("golden.image: the first input has no preprocessing")
    roles.require("golden.image", image.png, "golden")
    checkPair(taking, steps.size, image.pixels, image.prepared, roles)
    val (height, width) = image.pixels.shape
    if (height != steps.size.height.toLong() || width != steps.size.width.toLong()) {
        malformed("golden.image: its pixels are not of the input's size")
    }
    image.resized?.let { checkPair(taking, it.size, it.pixels, it.prepared, roles) }
    if (image.outputs.isEmpty()) return
    val same = image.outputs.map { it.name } == manifest.outputs.map { it.name }
    if (!same || !image.outputs.zip(manifest.outputs).all { (one, spec) -> fits(one.dtype, one.shape, spec) }) {
        malformed("golden.image: its outputs are not those of the model")
    }
    image.outputs.forEach { roles.tensor("golden.image", it) }
}

private fun checkPair(taking: Input, size: Size, pixels: TensorFile, prepared: TensorFile, roles: Roles) {
    val channels = taking.preprocessing!!.channels.toLong()
    if (pixels.dtype != "uint8" || pixels.shape.size != 3 || pixels.shape[2] != channels) {
        malformed("golden.image: its pixels are not bytes of the input's channels")
    }
    if (prepared.dtype != "float32" || prepared.shape != taking.imageShape(size)) {
        malformed("golden.image: the prepared input has not the dtype and size of the model's")
    }
    for (one in listOf(pixels, prepared)) roles.tensor("golden.image", one)
}
