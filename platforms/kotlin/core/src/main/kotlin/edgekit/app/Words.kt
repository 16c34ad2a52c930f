package edgekit

import java.util.Locale

/** One line of what was found: a colour (ARGB), a name and a figure. */
data class FoundLine(val colour: Int, val name: String, val figure: String)

/** What is found as lines, the surest or largest first. Objects below the [score] are left out. */
fun EdgeResult.lines(score: Double): List<FoundLine> {
    val names = info.classes
    return when (this) {
        is Classification -> top(5).map { FoundLine(colourOf(it), names.named(it), percent(scores[it].toDouble())) }
        is LabelMap -> labels.groupBy { it.toInt() and 0xffff }.mapValues { it.value.size }.entries
            .sortedWith(compareBy({ -it.value }, { it.key }))
            .map { (id, count) -> FoundLine(colourOf(id), names.named(id), percent(count.toDouble() / labels.size)) }
        is Embedding -> listOf(FoundLine(colourOf(0), "vector", "${vector.size} numbers"))
        else -> Overlay.of(this, score).items.map { FoundLine(it.colour, it.caption, "%.2f".format(Locale.ROOT, it.score)) }
    }
}

/** One sentence of what is found, for the status line and TalkBack. */
fun EdgeResult.sentence(score: Double): String {
    val objects = objects ?: return "Found: " + lines(score).take(3).joinToString(", ") { "${it.name} ${it.figure}" } + "."
    val rows = rows(score)
    if (rows.isEmpty()) return "Nothing found: try a lower least score."
    val counts = rows.groupingBy { info.classes.named(objects.classIds[it]) }.eachCount()
    return "${rows.size} found: " + counts.entries.joinToString(", ") { "${it.value} ${it.key}" } + "."
}

/** What went wrong in plain words; its own words say what to do. */
data class Problem(val title: String, val text: String) {
    companion object {
        fun of(error: Throwable): Problem = Problem(title(error), error.message ?: error.javaClass.simpleName)

        private fun title(error: Throwable): String = when (error) {
            is EdgeKitException.Bundle -> when (error.problem) {
                BundleProblem.NO_MANIFEST -> "There is no model here"
                BundleProblem.MISSING_FILE -> "A file of the model is missing"
                BundleProblem.WRONG_SIZE, BundleProblem.HASH_DIFFERS -> "A file of the model is damaged"
                BundleProblem.BAD_DIGEST -> "The model's description was changed"
                BundleProblem.NEWER_SCHEMA -> "This model needs a newer edgekit"
                BundleProblem.UNREADABLE -> "The model cannot be read"
                else -> "This is not a valid model"
            }
            is EdgeKitException.Input -> if ("camera" in error.message.orEmpty()) "The camera cannot be used" else "This picture cannot be used"
            is EdgeKitException.Engine -> "The engine cannot run this model here"
            is EdgeKitException -> "This does not work"
            else -> "Something went wrong"
        }
    }
}

/** What the record says, in a sentence. */
val SelfCheck.sentence: String
    get() {
        val than = if (compared == "bundle") "what it found when it was converted" else "what its source found"
        return if (agreed) "All $frames golden frames agree with $than." else "The golden frames do not agree with $than: ${differences.take(3).joinToString("; ")}."
    }

private fun percent(share: Double): String = "%.1f %%".format(Locale.ROOT, 100 * share)
