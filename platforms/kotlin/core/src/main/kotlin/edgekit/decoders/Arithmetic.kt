package edgekit

import kotlin.math.abs
import kotlin.math.ln
import kotlin.math.tanh

/** The logit of a probability, so that thresholds are compared before any sigmoid. */
internal fun logit(probability: Double): Float = when {
    probability <= 0 -> Float.NEGATIVE_INFINITY
    probability >= 1 -> Float.POSITIVE_INFINITY
    else -> ln(probability / (1 - probability)).toFloat()
}

/** Logistic function without overflow. */
internal fun sigmoid(value: Float): Float = 0.5f * (tanh(0.5f * value) + 1)

private fun notFinite() = EdgeKitException.Engine("the graph gave NaN or infinite outputs; convert in another precision, or verify the bundle")

/** Refuse NaN and infinities, which fail every threshold and would be dropped silently. Throws [EdgeKitException.Engine]. */
internal fun checkFinite(values: FloatArray, from: Int = 0, to: Int = values.size) {
    for (i in from until to) finite(values[i])
}

/** Refuse one number that is NaN or infinite. */
internal fun finite(value: Float): Float = if (value.isFinite()) value else throw notFinite()

/** The best value of every cell, and its class. */
internal class Best(val values: FloatArray, val classIds: IntArray)

/**
 * The largest value of each cell over its classes, the first of equals: [values] is (classes, cells) from [first] on.
 *
 * Throws [EdgeKitException.Engine]: it is NaN or infinite.
 */
internal fun bestOf(values: FloatArray, first: Int, classes: Int, cells: Int): Best {
    val best = Best(values.copyOfRange(first, first + cells), IntArray(cells))
    for (c in 1 until classes) {
        val row = first + c * cells
        for (cell in 0 until cells) {
            val value = values[row + cell]
            if (value.isNaN()) throw notFinite()
            if (!(value <= best.values[cell])) {
                best.values[cell] = value
                best.classIds[cell] = c
            }
        }
    }
    checkFinite(best.values)
    return best
}

/**
 * As [bestOf], but values of cells that are not above [cut] may be anything not above it: one look at each value.
 *
 * Throws [EdgeKitException.Engine]: the largest value of a cell is NaN or infinite.
 */
internal fun survivors(values: FloatArray, first: Int, classes: Int, cells: Int, cut: Float): Best {
    if (!cut.isFinite()) return bestOf(values, first, classes, cells)
    val best = Best(FloatArray(cells) { cut }, IntArray(cells))
    for (c in 0 until classes) {
        val row = first + c * cells
        for (cell in 0 until cells) {
            val value = values[row + cell]
            if (value <= cut) continue
            finite(value)
            if (value > best.values[cell]) {
                best.values[cell] = value
                best.classIds[cell] = c
            }
        }
    }
    for (cell in 0 until cells) {
        if (values[first + cell] == Float.NEGATIVE_INFINITY) {
            if ((0 until classes).all { values[first + it * cells + cell] == Float.NEGATIVE_INFINITY }) throw notFinite()
        }
    }
    return best
}

/** Rows and columns of a head (1, channels, rows, columns). */
internal class Grid(val rows: Int, val columns: Int) {
    val cells: Int get() = rows * columns

    fun column(cell: Int): Float = (cell % columns).toFloat()

    fun row(cell: Int): Float = (cell / columns).toFloat()

    /** The values (channels, cells) of a head. Throws [Misfit]: another shape. */
    fun planes(head: Tensor, channels: Int): FloatArray {
        val wanted = listOf(1, channels, rows, columns)
        if (head.shape != wanted || channels < 1) throw Misfit("${head.shown} where ${Tensor.shown(wanted)} is needed")
        return head.data
    }

    companion object {
        /** Throws [Misfit]: a grid that this stride cannot have. */
        fun of(head: Tensor, frame: InputFrame, stride: Double): Grid {
            checkPlanes(head)
            val grid = Grid(head.shape[2], head.shape[3])
            if (abs(grid.rows * stride - frame.height) >= stride || abs(grid.columns * stride - frame.width) >= stride) {
                val input = "${frame.height}x${frame.width}"
                throw Misfit("a grid of ${grid.rows}x${grid.columns} does not fit stride $stride on an input of $input")
            }
            return grid
        }

        fun checkPlanes(head: Tensor) {
            if (head.shape.size != 4 || head.shape.any { it < 1 }) throw Misfit("${head.shown} where (1, channels, rows, columns) is needed")
        }
    }
}

/** The one table in a head (1, rows, columns). */
internal class Matrix(val data: FloatArray, val rows: Int, val columns: Int)

/** Throws [Misfit]: more than one. */
internal fun matrix(head: Tensor): Matrix {
    val last = head.shape.takeLast(2)
    if (last.size != 2 || last[0] * last[1] != head.data.size) throw Misfit("${head.shown} is not one table")
    return Matrix(head.data, last[0], last[1])
}

/** What a role says of some anchors, and where they are. */
internal class Places(
    /** (n, width). */
    val values: FloatArray,
    val width: Int,
    val levels: IntArray,
    /** Number in the cell. */
    val kinds: IntArray,
    val columns: FloatArray,
    val rows: FloatArray,
) {
    val attached: Attached get() = Attached(values, width)
}

/** Values of one role at places counted level after level, cell after cell, box after box of a cell. Throws [Misfit]. */
internal fun places(heads: List<Tensor>, anchors: IntArray, perCell: List<Int> = heads.map { 1 }): Places {
    if (heads.size != perCell.size) throw Misfit("${heads.size} outputs where ${perCell.size} levels are needed")
    for ((head, kinds) in heads.zip(perCell)) {
        Grid.checkPlanes(head)
        if (kinds == 0 || head.shape[1] % kinds != 0) {
            throw Misfit("${head.shape[1]} channels where a multiple of $kinds boxes in a cell is needed")
        }
    }
    val widths = heads.zip(perCell) { head, kinds -> head.shape[1] / kinds }
    val width = widths.firstOrNull()
    if (width == null || widths.any { it != width }) throw Misfit("levels of different numbers of channels")
    val count = anchors.size
    val found = Places(FloatArray(count * width), width, IntArray(count), IntArray(count), FloatArray(count), FloatArray(count))
    for ((i, anchor) in anchors.withIndex()) {
        var (local, level) = anchor to 0
        while (level < heads.size) {
            val size = heads[level].shape[2] * heads[level].shape[3] * perCell[level]
            if (local < size) break
            local -= size
            level++
        }
        if (level == heads.size) throw Misfit("there is no anchor $anchor")
        val grid = Grid(heads[level].shape[2], heads[level].shape[3])
        val (cell, kind) = local / perCell[level] to local % perCell[level]
        found.levels[i] = level
        found.kinds[i] = kind
        found.columns[i] = grid.column(cell)
        found.rows[i] = grid.row(cell)
        for (k in 0 until width) found.values[i * width + k] = heads[level].data[(kind * width + k) * grid.cells + cell]
    }
    return found
}
