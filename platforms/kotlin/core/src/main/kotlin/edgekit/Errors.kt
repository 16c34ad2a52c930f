package edgekit

/**
 * What can go wrong. The message says what was wrong, with the value, and what to do about it.
 *
 * Work that is cancelled throws Kotlin's own `CancellationException`.
 */
sealed class EdgeKitException(message: String, cause: Throwable? = null) : RuntimeException(message, cause) {
    /** The call itself is wrong: an unknown name, a value out of range. */
    class Usage(message: String) : EdgeKitException(message)

    /** The model runs already; await its result, or use `results`, which drops frames and counts them. */
    class Busy(message: String) : EdgeKitException(message)

    /** The model was closed. */
    class Closed(message: String) : EdgeKitException(message)

    /** A contract is invalid, incomplete, or does not fit its graph. */
    class Contract(message: String) : EdgeKitException(message)

    /** An image, a mask or a frame cannot be read. */
    class Input(message: String) : EdgeKitException(message)

    /** An engine is missing, cannot open its file, or gave something unusable. */
    class Engine(message: String, cause: Throwable? = null) : EdgeKitException(message, cause)

    /** A bundle is damaged, altered or too new. */
    class Bundle(val problem: BundleProblem, message: String, cause: Throwable? = null) : EdgeKitException(message, cause)
}

/** Why a bundle was refused; [word] is what all runtimes call it. */
enum class BundleProblem(val word: String) {
    NO_MANIFEST("no-manifest"),
    NOT_JSON("not-json"),
    NEWER_SCHEMA("newer-schema"),
    INVALID("invalid"),
    BAD_DIGEST("bad-digest"),
    UNSAFE_PATH("unsafe-path"),
    NAMED_TWICE("named-twice"),
    MISSING_FILE("missing-file"),
    WRONG_SIZE("wrong-size"),
    HASH_DIFFERS("hash-differs"),
    UNGUARDED("unguarded"),
    UNREADABLE("unreadable"),
}

/** `'x' is not one of: a, b`: what every refusal of a name says. */
internal fun choices(given: String, valid: Iterable<String>): String = "'$given' is not one of: ${valid.joinToString(", ")}"
