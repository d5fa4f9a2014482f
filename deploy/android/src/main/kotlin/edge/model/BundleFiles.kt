package edge.model

import java.io.ByteArrayOutputStream
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest

/** Where a bundle's files are: an app's assets, a folder. */
interface BundleFiles {
    /** The paths of all files, with / between their parts; throws [BundleException] where one is a link. */
    fun list(): List<String>

    /** One of them; throws [IOException]. */
    fun open(path: String): InputStream
}

/** A folder of a file system. */
class FolderFiles(folder: File) : BundleFiles {
    private val folder: File = folder.canonicalFile

    override fun list(): List<String> = below("")

    override fun open(path: String): InputStream = File(folder, path).inputStream()

    private fun below(above: String): List<String> {
        val entries = File(folder, above).listFiles() ?: throw BundleException("$folder cannot be listed")
        return entries.sortedBy { it.name }.flatMap { entry ->
            val path = above + entry.name
            if (entry.canonicalPath != entry.path) throw BundleException("$path is a link, and no bundle has one")
            if (entry.isDirectory) below("$path/") else listOf(path)
        }
    }
}

/** What systems leave behind. */
private val IGNORED = listOf("__pycache__", ".DS_Store", "Thumbs.db", "desktop.ini")
private const val CHUNK = 1 shl 16

/** A bundle of which every file was found listed and whole, and no other: its manifest, and the bytes that are used. */
internal class WholeBundle private constructor(val manifest: Manifest, private val kept: Map<String, ByteArray>) {
    fun bytes(path: String): ByteArray = kept[path] ?: throw BundleException("$path is no file of the bundle")

    companion object {
        /** Prove it; throws [BundleException] with the path of the culprit. */
        fun read(files: BundleFiles): WholeBundle {
            val found = try {
                files.list()
            } catch (error: IOException) {
                throw BundleException("the bundle cannot be listed: ${error.message}")
            }
            if (Manifest.FILE !in found) throw BundleException("${Manifest.FILE} is missing")
            val manifest = readManifest(bytes(files, Manifest.FILE, Manifest.LARGEST_BYTES.toLong()))
            val listed = manifest.files.map { it.path }.toSet()
            for (path in found) {
                val known = path in listed || path == Manifest.FILE || path.split('/').any { it in IGNORED }
                if (!known) throw BundleException("$path is not listed in ${Manifest.FILE}; take it out of the bundle")
            }
            val present = found.toSet()
            val kept = HashMap<String, ByteArray>()
            for (file in manifest.files) {
                if (file.path !in present) throw BundleException("${file.path} is missing; copy the whole bundle")
                val used = file.path == manifest.modelFile || file.role == "golden" || file.role == "labels"
                whole(files, file, used)?.let { kept[file.path] = it }
            }
            return WholeBundle(manifest, kept)
        }

        /** The bytes of a file, if they are to be kept, proved by their number and SHA-256. */
        private fun whole(files: BundleFiles, file: ListedFile, keep: Boolean): ByteArray? {
            val bytes = ByteArrayOutputStream()
            val digest = MessageDigest.getInstance("SHA-256")
            var count = 0L
            reading(files, file.path) { chunk, length ->
                count += length
                digest.update(chunk, 0, length)
                if (keep) bytes.write(chunk, 0, length)
                count <= file.sizeBytes
            }
            if (count != file.sizeBytes || hex(digest.digest()) != file.sha256) {
                val why = "its size or sha256 differs from the manifest's"
                throw BundleException("${file.path} was changed or damaged: $why")
            }
            return if (keep) bytes.toByteArray() else null
        }

        private fun bytes(files: BundleFiles, path: String, most: Long): ByteArray {
            val bytes = ByteArrayOutputStream()
            reading(files, path) { chunk, length ->
                bytes.write(chunk, 0, length)
                bytes.size() <= most
            }
            return bytes.toByteArray()
        }

        /** Hand on a file in chunks for as long as [take] wants more. */
        private fun reading(files: BundleFiles, path: String, take: (ByteArray, Int) -> Boolean) {
            try {
                files.open(path).use { stream ->
                    val chunk = ByteArray(CHUNK)
                    var length = stream.read(chunk)
                    while (length >= 0 && take(chunk, length)) length = stream.read(chunk)
                }
            } catch (error: IOException) {
                throw BundleException("$path cannot be read: ${error.message}")
            }
        }

        private fun hex(bytes: ByteArray) = bytes.joinToString("") { "%02x".format(it) }
    }
}
