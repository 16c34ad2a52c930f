package edgekit

/** How a word becomes tokens: byte pairs (OPT), word pieces by their scores (T5), the longest pieces (BERT). */
internal interface TokenModel {
    /** Tokens by id. */
    val pieces: Map<Int, String>

    fun tokens(word: String): List<Int>
}

/** The model of a tokenizer file; files that are older than its `type` have byte pairs. */
internal fun tokenModel(part: Part): TokenModel = when (val type = if (part.has("type")) part.text("type") else "BPE") {
    "BPE" -> BytePairs(part)
    "Unigram" -> Unigram(part)
    "WordPiece" -> WordPieces(part)
    else -> throw part.unknown("is the model '$type'")
}

private fun vocabulary(part: Part): Map<String, Int> = part.entries("vocab").mapValues { (_, id) -> part.count(id) }

private fun inverted(ids: Map<String, Int>): Map<Int, String> = ids.entries.associate { (piece, id) -> id to piece }

private class BytePairs(part: Part) : TokenModel {
    private class Merge(val rank: Int, val id: Int)

    private val ids: Map<String, Int>
    private val merges = HashMap<Pair<Int, Int>, Merge>()
    private val unknown: Int?
    private val fuse = part.flag("fuse_unk")
    private val whole = part.flag("ignore_merges")
    override val pieces: Map<Int, String>

    init {
        for (name in listOf("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")) {
            val found = part.json(name)
            if (found != null && (found as? Json.Bool)?.value != false && (found as? Json.Text)?.value != "") throw part.unknown("has '$name'")
        }
        ids = vocabulary(part)
        pieces = inverted(ids)
        fun known(piece: String) = ids[piece] ?: throw part.wrong("merges to '$piece', which is no token of it")
        part.array("merges").forEachIndexed { rank, merge ->
            val pair = when (merge) {
                is Json.Text -> merge.value.split(' ')
                is Json.List -> merge.items.mapNotNull { (it as? Json.Text)?.value }
                else -> emptyList()
            }
            if (pair.size != 2) throw part.wrong("has a merge that is no pair")
            merges[known(pair[0]) to known(pair[1])] = Merge(rank, known(pair[0] + pair[1]))
        }
        unknown = if (part.has("unk_token")) known(part.text("unk_token")) else null
    }

    override fun tokens(word: String): List<Int> {
        if (whole) ids[word]?.let { return listOf(it) }
        val found = letters(word)
        while (true) {
            var best: Merge? = null
            var place = 0
            for (i in 0 until found.size - 1) {
                val merge = merges[found[i] to found[i + 1]] ?: continue
                if (best == null || merge.rank < best.rank) {
                    best = merge
                    place = i
                }
            }
            if (best == null) return found
            found[place] = best.id
            found.removeAt(place + 1)
        }
    }

    private fun letters(word: String): MutableList<Int> {
        val found = ArrayList<Int>()
        var isMissing = false
        for (letter in edgekit.letters(word)) {
            val id = ids[text(letter)]
            if (id != null) found.add(id) else if (unknown != null && !(isMissing && fuse)) found.add(unknown)
            isMissing = id == null
        }
        return found
    }
}

private class Unigram(part: Part) : TokenModel {
    private class Way(val score: Double, val start: Int, val id: Int?)

    private val ids = HashMap<String, Int>()
    private val scores: DoubleArray
    private val unknown = if (part.has("unk_id")) part.number("unk_id") else null
    private val least: Double
    private val longest: Int
    override val pieces: Map<Int, String>

    init {
        if (part.flag("byte_fallback")) throw part.unknown("has 'byte_fallback'")
        val vocabulary = part.array("vocab").map { entry ->
            val (piece, score) = (entry as? Json.List)?.items?.takeIf { it.size == 2 } ?: throw part.wrong(NO_PAIR)
            if (piece !is Json.Text || score !is Json.Number) throw part.wrong(NO_PAIR)
            piece.value to score.value
        }
        vocabulary.forEachIndexed { id, (piece, _) -> ids[piece] = id }
        scores = DoubleArray(vocabulary.size) { vocabulary[it].second }
        pieces = inverted(ids)
        least = (scores.minOrNull() ?: 0.0) - UNKNOWN
        longest = ids.keys.maxOfOrNull { it.codePointCount(0, it.length) } ?: 1
    }

    override fun tokens(word: String): List<Int> {
        val letters = letters(word)
        val ways = ways(letters)
        val (found, unread) = ArrayList<Int>() to letters.size
        var (missing, end) = 0 to unread
        while (end > 0) {
            val way = ways[end]!!
            val id = way.id ?: throw invalidTokenizer("has no piece for '${text(letters[way.start])}' and no unk_id; convert the model again")
            if (id != unknown) {
                found.add(id)
            } else {
                if (missing == 0) missing = end
                // Unknown letters side by side are one token.
                if (way.start == 0 || ways[way.start]!!.id != unknown) {
                    found.add(ids[letters.text(way.start, missing)] ?: id)
                    missing = 0
                }
            }
            end = way.start
        }
        return found.reversed()
    }

    /** For each place the best way there: its score, where its last piece begins, and that piece. */
    private fun ways(letters: IntArray): Array<Way?> {
        val ways = arrayOfNulls<Way>(letters.size + 1)
        ways[0] = Way(0.0, -1, null)
        fun offer(end: Int, start: Int, id: Int?, score: Double) {
            if (score > (ways[end]?.score ?: Double.NEGATIVE_INFINITY)) ways[end] = Way(score, start, id)
        }
        for (start in letters.indices) {
            val before = ways[start]!!.score
            val piece = StringBuilder()
            var isSingle = false
            for (end in start + 1..minOf(letters.size, start + longest)) {
                val id = ids[piece.appendCodePoint(letters[end - 1]).toString()] ?: continue
                offer(end, start, id, scores[id] + before)
                if (end == start + 1) isSingle = true
            }
            if (!isSingle) offer(start + 1, start, unknown, least + before)
        }
        return ways
    }

    private companion object {
        /** How much less likely than the least likely piece an unknown letter is. */
        const val UNKNOWN = 10.0
        const val NO_PAIR = "has a piece that is no text with its score"
    }
}

private class WordPieces(part: Part) : TokenModel {
    private val ids = vocabulary(part)
    private val prefix = part.text("continuing_subword_prefix")
    private val unknown = part.text("unk_token").let { ids[it] ?: throw part.wrong("has no token '$it'") }
    private val most = part.number("max_input_chars_per_word")
    override val pieces = inverted(ids)

    override fun tokens(word: String): List<Int> {
        val letters = letters(word)
        if (letters.size > most) return listOf(unknown)
        val found = ArrayList<Int>()
        var start = 0
        while (start < letters.size) {
            val begun = if (start > 0) prefix else ""
            val end = (letters.size downTo start + 1).firstOrNull { begun + letters.text(start, it) in ids } ?: return listOf(unknown)
            found.add(ids.getValue(begun + letters.text(start, end)))
            start = end
        }
        return found
    }
}
