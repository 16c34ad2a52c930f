package edgekit

import java.security.MessageDigest

/**
 * `manifest.json`: the structures of [Manifest] as JSON with a digest, checked when read.
 *
 * The digest is a checksum. It tells accidents, and no attack: anyone can compute it anew.
 */
internal object ManifestFile {
    /** SHA-256 of a manifest's canonical form with its own `digest` left empty. */
    fun digest(document: Json.Object): String =
        sha256(Json.Object(document.entries + ("digest" to Json.Text(""))).canonical.toByteArray())

    /**
     * Read and check a manifest.
     *
     * Throws [EdgeKitException.Bundle]: not JSON, written by a newer edgekit, not valid, or changed after it was written.
     */
    fun decode(data: ByteArray, origin: String): Manifest {
        val document = read(data, origin)
        val found = try {
            Manifest.read(document, "")
        } catch (problem: Invalid) {
            throw refused(BundleProblem.INVALID, origin, "the manifest is not valid (${problem.message}); convert the model again")
        }
        if (found.digest != digest(document)) {
            val shown = found.digest.take(12).ifEmpty { "empty" }
            val what = "the manifest was changed after it was written (digest $shown does not fit)"
            throw refused(BundleProblem.BAD_DIGEST, origin, "$what; restore the original or convert the model again")
        }
        return found
    }

    private fun read(data: ByteArray, origin: String): Json.Object {
        fun unreadable(why: String?) = refused(BundleProblem.NOT_JSON, origin, "not a readable manifest ($why); convert the model again")
        val document: Json.Object
        val version: Long
        try {
            document = Read.obj(Json.parse(data), "")
            version = Read.long(document.entries["schema"] ?: throw Invalid("Object missing required field `schema`", ""), ".schema")
        } catch (problem: MalformedJson) {
            throw unreadable(problem.message)
        } catch (problem: Invalid) {
            throw unreadable(problem.message)
        }
        if (version !in 1..Manifest.SCHEMA) {
            val what = "manifest schema $version, this EdgeKit reads up to ${Manifest.SCHEMA}; update the library"
            throw refused(BundleProblem.NEWER_SCHEMA, origin, what)
        }
        return document
    }
}

internal fun refused(problem: BundleProblem, place: Any, what: String) = EdgeKitException.Bundle(problem, "$place: $what")

/** SHA-256 of bytes, in hexadecimal digits. */
internal fun sha256(bytes: ByteArray): String = hexadecimal(MessageDigest.getInstance("SHA-256").digest(bytes))

internal fun hexadecimal(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(it) }
