/// Which track takes which detection: the one-to-one choice of pairs with the greatest total gain.
///
/// Solved exactly. Where no two pairs compete, they are the choice. Else those that are in every best choice are taken
/// first (almost all of them, in a video); what is left goes to Jonker and Volgenant's shortest augmenting paths. A fixed
/// perturbation far below any measured difference, the same as in Python, decides between choices that are equally good.
package enum Assignment {
    /// Greatest perturbation of a gain.
    private static let tie = 1e-9

    /// The column of each row, -1 without one, for `gains` (n, m) row after row; pairs at 0 or below are never chosen.
    ///
    /// A pair worth more than the best alternative of its row and that of its column together is in every best choice.
    package static func assign(_ gains: [Float], _ n: Int, _ m: Int) -> [Int] {
        if let sole = uncontested(gains, n, m) { return sole }
        var chosen = [Int](repeating: -1, count: n)
        var (bestColumn, bestRow) = ([Int](repeating: 0, count: n), [Int](repeating: 0, count: m))
        var rowBest = [Float](repeating: -.infinity, count: n)
        var columnBest = [Float](repeating: -.infinity, count: m)
        for i in 0..<n {
            for j in 0..<m {
                let gain = gains[i * m + j]
                if gain > rowBest[i] { (rowBest[i], bestColumn[i]) = (gain, j) }
                if gain > columnBest[j] { (columnBest[j], bestRow[j]) = (gain, i) }
            }
        }
        // A candidate is the best of its row and of its column.
        let isMutual = (0..<n).map { bestRow[bestColumn[$0]] == $0 && rowBest[$0] > 0 }
        var rowNext = [Float](repeating: -.infinity, count: n)
        var columnNext = [Float](repeating: -.infinity, count: m)
        for i in 0..<n {
            let own = isMutual[i] ? bestColumn[i] : -1
            for j in 0..<m {
                let gain = j == own ? 0 : gains[i * m + j]
                if gain > rowNext[i] { rowNext[i] = gain }
                if gain > columnNext[j] { columnNext[j] = gain }
            }
        }
        var taken = [Bool](repeating: false, count: m)
        for i in 0..<n where isMutual[i] && rowBest[i] > rowNext[i] + columnNext[bestColumn[i]] {
            chosen[i] = bestColumn[i]
            taken[bestColumn[i]] = true
        }
        let rows = (0..<n).filter { chosen[$0] < 0 && rowBest[$0] > 0 }
        solve(gains, m, rows, (0..<m).filter { !taken[$0] }, &chosen)
        return chosen
    }

    /// The column of each row, -1 without one, where no two pairs above 0 have a row or column in common; else nil.
    package static func uncontested(_ gains: [Float], _ n: Int, _ m: Int) -> [Int]? {
        var chosen = [Int](repeating: -1, count: n)
        var taken = [Bool](repeating: false, count: m)
        for i in 0..<n {
            for j in 0..<m where gains[i * m + j] > 0 {
                if chosen[i] >= 0 || taken[j] { return nil }
                chosen[i] = j
                taken[j] = true
            }
        }
        return chosen
    }

    private static func solve(_ gains: [Float], _ m: Int, _ someRows: [Int], _ someColumns: [Int], _ chosen: inout [Int]) {
        func isPossible(_ row: Int, _ column: Int) -> Bool { gains[row * m + column] > 0 }
        let rows = someRows.filter { row in someColumns.contains { isPossible(row, $0) } }
        let columns = someColumns.filter { column in rows.contains { isPossible($0, column) } }
        if rows.isEmpty { return }
        let isWide = rows.count <= columns.count
        let (count, width) = isWide ? (rows.count, columns.count) : (columns.count, rows.count)
        var left = [Double](repeating: 0, count: count * width)
        for (i, row) in rows.enumerated() {
            for (j, column) in columns.enumerated() where isPossible(row, column) {
                left[isWide ? i * width + j : j * width + i] = Double(gains[row * m + column]) + tie * tieBreak(i, j)
            }
        }
        for (one, other) in shortestAugmentingPaths(left, count, width).enumerated() {
            let (row, column) = isWide ? (rows[one], columns[other]) : (rows[other], columns[one])
            if isPossible(row, column) { chosen[row] = column }
        }
    }

    /// Columns (n,) of the best full choice for gains (n, m), n <= m.
    ///
    /// D. F. Crouse, On implementing 2D rectangular assignment algorithms, IEEE TAES 52(4), 2016.
    package static func shortestAugmentingPaths(_ gains: [Double], _ count: Int, _ width: Int) -> [Int] {
        let most = gains.max() ?? 0
        var rowPrice = [Double](repeating: 0, count: count)
        var columnPrice = [Double](repeating: 0, count: width)
        var rowOf = [Int](repeating: -1, count: width)
        var columnOf = [Int](repeating: -1, count: count)
        var path = [Int](repeating: -1, count: width)
        for start in 0..<count {
            var length = [Double](repeating: .infinity, count: width)
            var done = [Bool](repeating: false, count: width)
            var visited: [Int] = []
            var (row, reached, column) = (start, 0.0, 0)
            while true {
                var nearest = Double.infinity
                for j in 0..<width where !done[j] {
                    let through = reached + (most - gains[row * width + j]) - rowPrice[row] - columnPrice[j]
                    if through < length[j] { (length[j], path[j]) = (through, row) }
                    if length[j] < nearest { (nearest, column) = (length[j], j) }
                }
                reached = nearest
                done[column] = true
                if rowOf[column] < 0 { break }
                row = rowOf[column]
                visited.append(row)
            }
            rowPrice[start] += reached
            for other in visited { rowPrice[other] += reached - length[columnOf[other]] }
            for j in 0..<width where done[j] { columnPrice[j] -= reached - length[j] }
            while true {
                let owner = path[column]
                rowOf[column] = owner
                (columnOf[owner], column) = (column, columnOf[owner])
                if owner == start { break }
            }
        }
        return columnOf
    }

    /// A fixed number in 0..1 for each pair, by 32-bit integers: the same on any device.
    private static func tieBreak(_ row: Int, _ column: Int) -> Double {
        var mixed = (UInt32(row) &* 0x9e37_79b1) ^ (UInt32(column) &* 0x85eb_ca77)
        mixed ^= mixed >> 16
        mixed = mixed &* 0xc2b2_ae3d
        mixed ^= mixed >> 15
        return Double(mixed) * 0x1p-32
    }
}
