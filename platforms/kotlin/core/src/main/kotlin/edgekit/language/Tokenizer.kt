package edgekit

/** Texts to token ids and back, by a `tokenizer.json` of Hugging Face's format. */
class Tokenizer private constructor(file: Part) {
    private val normalize: Normalizer = file.part("normalizer", ::normalizer) ?: { it }
    private val words: PreTokenizer = file.part("pre_tokenizer", ::preTokenizer) ?: { text, _ -> listOf(text) }
    private val model = tokenModel(Part(file.json("model"), "model"))

    /** Ids before and behind a text. */
    private val around = file.part("post_processor", ::idsAround) ?: Around()
    private val joined: TokenDecoder = file.part("decoder", ::tokenDecoder) ?: { it.joinToString(" ") }
    private val added = AddedTokens(if (file.has("added_tokens")) file.list("added_tokens") else emptyList(), normalize)

    init {
        for (name in listOf("padding", "truncation")) {
            if (file.has(name)) throw invalidTokenizer("has $name, which belongs to a call; convert again")
        }
    }

    private fun <T> Part.part(name: String, read: (Part) -> T): T? = json(name)?.let { read(Part(it, name)) }

    /** The ids of a text, with those that the tokenizer puts before and behind. */
    fun encode(text: String): List<Int> {
        val ids = added.split(text, normalize).flatMap { piece ->
            if (piece.id != null) listOf(piece.id) else words(piece.text, piece.first).flatMap { if (it.isEmpty()) emptyList() else model.tokens(it) }
        }
        return around.before + ids + around.behind
    }

    /** The text of ids, without special tokens and unknown ids. */
    fun decode(ids: List<Int>): String = joined(ids.mapNotNull { added.contents[it] ?: model.pieces[it] }.filter { it !in added.special })

    fun pieces() = Pieces()

    /**
     * Decodes one text id by id: what is new after each, null while that is not sure, as with half a character. What is never
     * whole never comes.
     */
    inner class Pieces internal constructor() {
        // As the package tokenizers does it: only the last tokens are decoded, of which the first are known.
        private var ids = emptyList<Int>()
        private var prefix = ""
        private var known = 0

        /** Throws [EdgeKitException.Bundle]: a later token changes the text before it. */
        fun add(id: Int): String? {
            if (prefix.isEmpty() && ids.isNotEmpty()) {
                val text = decode(ids)
                if (!text.endsWith(HALF)) {
                    prefix = text
                    known = ids.size
                }
            }
            ids = ids + id
            val text = decode(ids)
            if (text.toByteArray().size <= prefix.toByteArray().size || text.endsWith(HALF)) return null
            if (!text.startsWith(prefix)) throw invalidTokenizer("a later token changes the text before it; texts of it cannot be streamed")
            val piece = text.substring(prefix.length)
            val rest = ids.size - known
            ids = ids.drop(known)
            prefix = decode(ids)
            known = rest
            return piece
        }
    }

    companion object {
        /** What stands for half a character. */
        private const val HALF = '\uFFFD'

        /** Throws [EdgeKitException.Bundle]: not such a file, or with a part that this library does not know; it names the part. */
        fun of(bytes: ByteArray): Tokenizer {
            val document = try {
                Json.parse(bytes)
            } catch (problem: MalformedJson) {
                throw invalidTokenizer("not a tokenizer (${problem.message}); convert the model again", problem)
            }
            return Tokenizer(Part(document, "document"))
        }
    }
}

/** Ids before and behind a text. */
private class Around(val before: List<Int> = emptyList(), val behind: List<Int> = emptyList())

private fun idsAround(part: Part): Around = when (val type = part.text("type")) {
    "ByteLevel" -> Around()
    "RobertaProcessing", "BertProcessing" -> {
        fun id(name: String) = listOf(part.count(part.array(name).lastOrNull()))
        Around(id("cls"), id("sep"))
    }
    "Sequence" -> part.list("processors").map(::idsAround).fold(Around()) { all, one -> Around(one.before + all.before, all.behind + one.behind) }
    "TemplateProcessing" -> {
        val special = part.obj("special_tokens")
        val (before, behind) = part.list("single").let { all -> all.takeWhile { !it.has("Sequence") } to all.dropWhile { !it.has("Sequence") }.drop(1) }
        fun ids(items: List<Part>) = items.filter { !it.has("Sequence") }.flatMap { item ->
            val token = special.obj(item.obj("SpecialToken").text("id"))
            token.array("ids").map { token.count(it) }
        }
        Around(ids(before), ids(behind))
    }
    else -> throw part.unknown("is the post_processor '$type'")
}
