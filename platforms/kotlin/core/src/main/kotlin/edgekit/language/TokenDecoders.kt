package edgekit

/** How tokens become a text again. */
internal typealias TokenDecoder = (List<String>) -> String

internal fun tokenDecoder(part: Part): TokenDecoder = when (val type = part.text("type")) {
    "ByteLevel" -> ::fromLetters
    "Metaspace" -> spaced(Metaspace(part))
    "WordPiece" -> joinedPieces(part.text("prefix"), part.flag("cleanup", or = true))
    else -> throw part.unknown("is the decoder '$type'")
}

private fun fromLetters(tokens: List<String>): String =
    String(tokens.fold(ByteArray(0)) { bytes, token -> bytes + (ByteLetters.bytes(token) ?: token.toByteArray()) })

private fun spaced(space: Metaspace): TokenDecoder = { tokens ->
    tokens.withIndex().joinToString("") { (place, token) -> token.replace(space.mark, if (place == 0 && space.scheme != "never") "" else " ") }
}

private fun joinedPieces(prefix: String, cleanup: Boolean): TokenDecoder = { tokens ->
    tokens.withIndex().joinToString("") { (place, token) ->
        val one = if (place == 0) token else if (token.startsWith(prefix)) token.substring(prefix.length) else " $token"
        if (cleanup) cleanups.fold(one) { made, (old, new) -> made.replace(old, new) } else one
    }
}

private val cleanups = listOf(
    " ." to ".", " ?" to "?", " !" to "!", " ," to ",", " ' " to "'", " n't" to "n't", " 'm" to "'m", " do not" to " don't", " 's" to "'s",
    " 've" to "'ve", " 're" to "'re",
)
