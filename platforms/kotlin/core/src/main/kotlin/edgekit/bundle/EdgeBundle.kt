package edgekit

import java.io.File
import java.io.IOException
import java.security.MessageDigest

/** A bundle: `manifest.json` and the files it names, verified when it was opened. */
class EdgeBundle private constructor(val folder: File, val manifest: Manifest) {
    /** SHA-256 of the manifest, which names the hashes of all files: which bundle this is. */
    val digest: String get() = manifest.digest

    /** Where a file of the bundle lies. */
    fun file(path: String): File = File(folder, path)

    internal fun lists(path: String): Boolean = manifest.files.any { it.path == path }

    internal fun read(path: String): ByteArray = bytes(file(path))

    private fun check() {
        val seen = HashSet<String>()
        for (file in manifest.files) {
            checkName(file.path, seen)
            check(file)
        }
        for (graph in manifest.graphs) {
            for (path in graph.files) {
                if (!lists(path)) {
                    val what = "graph '${graph.name}' uses '$path', which the manifest does not list; do not use this bundle"
                    throw refused(BundleProblem.UNGUARDED, folder, what)
                }
            }
        }
    }

    /** Refuse a file name that leaves the bundle, or that stands there twice. */
    private fun checkName(path: String, seen: MutableSet<String>) {
        val parts = path.split('/').filter { it.isNotEmpty() && it != "." }
        val forbidden = path.any { it == '\\' || it == ':' || it == '\u0000' }
        if (path.startsWith("/") || parts.isEmpty() || ".." in parts || forbidden || leadsOutside(path)) {
            throw refused(BundleProblem.UNSAFE_PATH, folder, "the file name '$path' leaves the bundle; do not use this bundle")
        }
        if (!seen.add(parts.joinToString("/"))) {
            throw refused(BundleProblem.NAMED_TWICE, folder, "the manifest names '$path' more than once; do not use this bundle")
        }
    }

    private fun leadsOutside(path: String): Boolean {
        val (root, place) = folder.canonicalFile to file(path).canonicalFile
        return place == root || !place.startsWith(root)
    }

    private fun check(file: Manifest.File) {
        val place = file(file.path)
        if (!place.isFile) throw refused(BundleProblem.MISSING_FILE, place, "missing from the bundle; copy the bundle again")
        if (place.length() != file.bytes) {
            val what = "${place.length()} bytes, the manifest says ${file.bytes}; truncated or replaced, copy it again"
            throw refused(BundleProblem.WRONG_SIZE, place, what)
        }
        if (hash(place) != file.sha256) {
            throw refused(BundleProblem.HASH_DIFFERS, place, "its content is not what was written (hash differs); copy the bundle again")
        }
        if (file.path.lowercase().endsWith(".onnx")) refuseUnlisted(file.path, bytes(place))
    }

    /** Refuse an ONNX file that has an engine read what the manifest does not list. */
    private fun refuseUnlisted(path: String, data: ByteArray) {
        val others = try {
            OnnxFile.named(data)
        } catch (problem: OnnxFile.Broken) {
            throw refused(BundleProblem.INVALID, file(path), "not a whole ONNX file (${problem.message}); convert the model again")
        }
        val inside = path.split('/').dropLast(1).joinToString("") { "$it/" }
        for (other in others) {
            if (!lists(inside + other)) {
                val what = "keeps weights in '$other', which the manifest does not list; do not use this bundle"
                throw refused(BundleProblem.UNGUARDED, file(path), what)
            }
        }
    }

    companion object {
        /** The most bytes of a `manifest.json`. */
        private const val MOST = 64L shl 20

        /**
         * Open a bundle, the [folder] that `edgekit convert` wrote, and check all of it: manifest, names, sizes and hashes.
         *
         * Throws [EdgeKitException.Bundle]: not there, damaged, altered or too new.
         */
        fun open(folder: File): EdgeBundle {
            val place = File(folder, Manifest.FILE_NAME)
            if (!place.isFile) {
                val what = "no bundle there (no ${Manifest.FILE_NAME}); give the folder that edgekit convert wrote"
                throw refused(BundleProblem.NO_MANIFEST, folder, what)
            }
            if (place.length() > MOST) {
                val what = "a manifest of ${place.length()} bytes, and none has more than $MOST; do not use this bundle"
                throw refused(BundleProblem.UNREADABLE, folder, what)
            }
            val bundle = EdgeBundle(folder, ManifestFile.decode(bytes(place), place.path))
            try {
                bundle.check()
            } catch (problem: IOException) {
                throw unreadable(folder, problem)
            }
            return bundle
        }

        private fun bytes(place: File): ByteArray = try {
            place.readBytes()
        } catch (problem: IOException) {
            throw unreadable(place, problem)
        }

        private fun unreadable(place: File, problem: IOException) =
            EdgeKitException.Bundle(BundleProblem.UNREADABLE, "$place: cannot be read: ${problem.message}", problem)

        /** SHA-256 of a file, which may be larger than memory. */
        private fun hash(place: File): String {
            val digest = MessageDigest.getInstance("SHA-256")
            val buffer = ByteArray(1 shl 16)
            place.inputStream().use { stream ->
                while (true) {
                    val count = stream.read(buffer)
                    if (count < 0) return hexadecimal(digest.digest())
                    digest.update(buffer, 0, count)
                }
            }
        }
    }
}
