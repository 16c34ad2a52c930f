package edgekit

/**
 * Which track takes which detection: the one-to-one choice of pairs with the greatest total gain.
 *
 * Solved exactly. Where no two pairs compete, they are the choice. Else those that are in every best choice are taken
 * first (almost all of them, in a video); what is left goes to Jonker and Volgenant's shortest augmenting paths. A fixed
 * perturbation far below any measured difference, the same as in Python, decides between choices that are equally good.
 */
internal object Assignment {
    /** Greatest perturbation of a gain. */
    private const val TIE = 1e-9

    /**
     * The column of each row, -1 without one, for [gains] (n, m) row after row; pairs at 0 or below are never chosen.
     *
     * A pair worth more than the best alternative of its row and that of its column together is in every best choice.
     */
    fun assign(gains: FloatArray, n: Int, m: Int): IntArray {
        uncontested(gains, n, m)?.let { return it }
        val chosen = IntArray(n) { -1 }
        val bestColumn = IntArray(n)
        val bestRow = IntArray(m)
        val rowBest = FloatArray(n) { Float.NEGATIVE_INFINITY }
        val columnBest = FloatArray(m) { Float.NEGATIVE_INFINITY }
        for (i in 0 until n) {
            for (j in 0 until m) {
                val gain = gains[i * m + j]
                if (gain > rowBest[i]) {
                    rowBest[i] = gain
                    bestColumn[i] = j
                }
                if (gain > columnBest[j]) {
                    columnBest[j] = gain
                    bestRow[j] = i
                }
            }
        }
        // A candidate is the best of its row and of its column.
        val isMutual = BooleanArray(n) { bestRow[bestColumn[it]] == it && rowBest[it] > 0 }
        val rowNext = FloatArray(n) { Float.NEGATIVE_INFINITY }
        val columnNext = FloatArray(m) { Float.NEGATIVE_INFINITY }
        for (i in 0 until n) {
            val own = if (isMutual[i]) bestColumn[i] else -1
            for (j in 0 until m) {
                val gain = if (j == own) 0f else gains[i * m + j]
                if (gain > rowNext[i]) rowNext[i] = gain
                if (gain > columnNext[j]) columnNext[j] = gain
            }
        }
        val taken = BooleanArray(m)
        for (i in 0 until n) {
            if (isMutual[i] && rowBest[i] > rowNext[i] + columnNext[bestColumn[i]]) {
                chosen[i] = bestColumn[i]
                taken[bestColumn[i]] = true
            }
        }
        solve(gains, m, indicesWhere(n) { chosen[it] < 0 && rowBest[it] > 0 }, indicesWhere(m) { !taken[it] }, chosen)
        return chosen
    }

    /** The column of each row, -1 without one, where no two pairs above 0 have a row or column in common; else null. */
    fun uncontested(gains: FloatArray, n: Int, m: Int): IntArray? {
        val chosen = IntArray(n) { -1 }
        val taken = BooleanArray(m)
        for (i in 0 until n) {
            for (j in 0 until m) {
                if (!(gains[i * m + j] > 0)) continue
                if (chosen[i] >= 0 || taken[j]) return null
                chosen[i] = j
                taken[j] = true
            }
        }
        return chosen
    }

    private fun solve(gains: FloatArray, m: Int, someRows: IntArray, someColumns: IntArray, chosen: IntArray) {
        fun isPossible(row: Int, column: Int) = gains[row * m + column] > 0
        val rows = someRows.filter { row -> someColumns.any { isPossible(row, it) } }
        val columns = someColumns.filter { column -> rows.any { isPossible(it, column) } }
        if (rows.isEmpty()) return
        val isWide = rows.size <= columns.size
        val (count, width) = if (isWide) rows.size to columns.size else columns.size to rows.size
        val left = DoubleArray(count * width)
        for ((i, row) in rows.withIndex()) {
            for ((j, column) in columns.withIndex()) {
                if (!isPossible(row, column)) continue
                left[if (isWide) i * width + j else j * width + i] = gains[row * m + column].toDouble() + TIE * tieBreak(i, j)
            }
        }
        for ((one, other) in shortestAugmentingPaths(left, count, width).withIndex()) {
            val (row, column) = if (isWide) rows[one] to columns[other] else rows[other] to columns[one]
            if (isPossible(row, column)) chosen[row] = column
        }
    }

    /**
     * Columns (n,) of the best full choice for gains (n, m), n <= m.
     *
     * D. F. Crouse, On implementing 2D rectangular assignment algorithms, IEEE TAES 52(4), 2016.
     */
    private fun shortestAugmentingPaths(gains: DoubleArray, count: Int, width: Int): IntArray {
        val most = gains.max()
        val rowPrice = DoubleArray(count)
        val columnPrice = DoubleArray(width)
        val rowOf = IntArray(width) { -1 }
        val columnOf = IntArray(count) { -1 }
        val path = IntArray(width) { -1 }
        for (start in 0 until count) {
            val length = DoubleArray(width) { Double.POSITIVE_INFINITY }
            val done = BooleanArray(width)
            val visited = ArrayList<Int>()
            var row = start
            var reached = 0.0
            var column = 0
            while (true) {
                var nearest = Double.POSITIVE_INFINITY
                for (j in 0 until width) {
                    if (done[j]) continue
                    val through = reached + (most - gains[row * width + j]) - rowPrice[row] - columnPrice[j]
                    if (through < length[j]) {
                        length[j] = through
                        path[j] = row
                    }
                    if (length[j] < nearest) {
                        nearest = length[j]
                        column = j
                    }
                }
                reached = nearest
                done[column] = true
                if (rowOf[column] < 0) break
                row = rowOf[column]
                visited.add(row)
            }
            rowPrice[start] += reached
            for (other in visited) rowPrice[other] += reached - length[columnOf[other]]
            for (j in 0 until width) if (done[j]) columnPrice[j] -= reached - length[j]
            do {
                val owner = path[column]
                rowOf[column] = owner
                column = columnOf[owner].also { columnOf[owner] = column }
            } while (owner != start)
        }
        return columnOf
    }

    /** A fixed number in 0..1 for each pair, by 32-bit integers: the same on any device. */
    private fun tieBreak(row: Int, column: Int): Double {
        var mixed = (row * 0x9e3779b1.toInt()) xor (column * 0x85ebca77.toInt())
        mixed = mixed xor (mixed ushr 16)
        mixed *= 0xc2b2ae3d.toInt()
        mixed = mixed xor (mixed ushr 15)
        return mixed.toUInt().toDouble() / 4294967296.0
    }
}
