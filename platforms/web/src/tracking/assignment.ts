/**
 * Which track takes which detection: the one-to-one choice of pairs with the greatest total gain.
 *
 * Solved exactly. Where no two pairs compete, they are the choice. Else those that are in every best choice are taken
 * first (almost all of them, in a video); what is left goes to Jonker and Volgenant's shortest augmenting paths. A fixed
 * perturbation far below any measured difference, the same as in Python, decides between choices that are equally good.
 */

/** Greatest perturbation of a gain. */
const TIE = 1e-9;

/**
 * The column of each row, -1 without one, for `gains` (n, m) row after row; pairs at 0 or below are never chosen.
 *
 * A pair worth more than the best alternative of its row and that of its column together is in every best choice.
 */
export function assign(gains: Float32Array, n: number, m: number): Int32Array {
  const sole = uncontested(gains, n, m);
  if (sole) return sole;
  const chosen = new Int32Array(n).fill(-1);
  const [bestColumn, bestRow] = [new Int32Array(n), new Int32Array(m)];
  const rowBest = new Float32Array(n);
  const columnBest = new Float32Array(m).fill(-Infinity);
  for (let i = 0; i < n; i++) {
    let [best, at] = [-Infinity, 0];
    for (let j = 0; j < m; j++) {
      const gain = gains[i * m + j]!;
      if (gain > best) [best, at] = [gain, j];
      if (gain > columnBest[j]!) {
        columnBest[j] = gain;
        bestRow[j] = i;
      }
    }
    bestColumn[i] = at;
    rowBest[i] = best;
  }
  // A candidate is the best of its row and of its column.
  const mutual = (i: number): boolean => bestRow[bestColumn[i]!] === i && rowBest[i]! > 0;
  const rowNext = new Float32Array(n);
  const columnNext = new Float32Array(m).fill(-Infinity);
  for (let i = 0; i < n; i++) {
    const own = mutual(i) ? bestColumn[i]! : -1;
    let next = -Infinity;
    for (let j = 0; j < m; j++) {
      const gain = j === own ? 0 : gains[i * m + j]!;
      if (gain > next) next = gain;
      if (gain > columnNext[j]!) columnNext[j] = gain;
    }
    rowNext[i] = next;
  }
  const taken = new Uint8Array(m);
  for (let i = 0; i < n; i++) {
    const j = bestColumn[i]!;
    if (mutual(i) && rowBest[i]! > Math.fround(rowNext[i]! + columnNext[j]!)) {
      chosen[i] = j;
      taken[j] = 1;
    }
  }
  const rows: number[] = [];
  for (let i = 0; i < n; i++) if (chosen[i]! < 0 && rowBest[i]! > 0) rows.push(i);
  const columns: number[] = [];
  for (let j = 0; j < m; j++) if (!taken[j]) columns.push(j);
  solve(gains, m, rows, columns, chosen);
  return chosen;
}

/** The column of each row, -1 without one, where no two pairs above 0 have a row or column in common; else null. */
export function uncontested(gains: Float32Array, n: number, m: number): Int32Array | null {
  const chosen = new Int32Array(n).fill(-1);
  const taken = new Uint8Array(m);
  for (let i = 0, at = 0; i < n; i++) {
    for (let j = 0; j < m; j++, at++) {
      if (!(gains[at]! > 0)) continue;
      if (chosen[i]! >= 0 || taken[j]) return null;
      chosen[i] = j;
      taken[j] = 1;
    }
  }
  return chosen;
}

function solve(gains: Float32Array, m: number, someRows: number[], someColumns: number[], chosen: Int32Array): void {
  const possible = (row: number, column: number): boolean => gains[row * m + column]! > 0;
  const rows = someRows.filter((row) => someColumns.some((column) => possible(row, column)));
  const columns = someColumns.filter((column) => rows.some((row) => possible(row, column)));
  if (!rows.length) return;
  const wide = rows.length <= columns.length;
  const [count, width] = wide ? [rows.length, columns.length] : [columns.length, rows.length];
  const left = new Float64Array(count * width);
  rows.forEach((row, i) => {
    columns.forEach((column, j) => {
      if (!possible(row, column)) return;
      left[wide ? i * width + j : j * width + i] = gains[row * m + column]! + TIE * tieBreak(i, j);
    });
  });
  shortestAugmentingPaths(left, count, width).forEach((other, one) => {
    const [row, column] = wide ? [rows[one]!, columns[other]!] : [rows[other]!, columns[one]!];
    if (possible(row, column)) chosen[row] = column;
  });
}

/**
 * Columns (n,) of the best full choice for gains (n, m), n <= m.
 *
 * D. F. Crouse, On implementing 2D rectangular assignment algorithms, IEEE TAES 52(4), 2016.
 */
export function shortestAugmentingPaths(gains: Float64Array, count: number, width: number): Int32Array {
  let most = -Infinity;
  for (const gain of gains) most = Math.max(most, gain);
  const rowPrice = new Float64Array(count);
  const columnPrice = new Float64Array(width);
  const rowOf = new Int32Array(width).fill(-1);
  const columnOf = new Int32Array(count).fill(-1);
  const length = new Float64Array(width);
  const path = new Int32Array(width);
  const done = new Uint8Array(width);
  for (let start = 0; start < count; start++) {
    length.fill(Infinity);
    path.fill(-1);
    done.fill(0);
    const visited = [start];
    let [row, reached, column] = [start, 0, 0];
    for (;;) {
      let nearest = Infinity;
      for (let j = 0; j < width; j++) {
        if (done[j]) continue;
        const through = reached + (most - gains[row * width + j]!) - rowPrice[row]! - columnPrice[j]!;
        if (through < length[j]!) {
          length[j] = through;
          path[j] = row;
        }
        if (length[j]! < nearest) [nearest, column] = [length[j]!, j];
      }
      reached = nearest;
      done[column] = 1;
      if (rowOf[column]! < 0) break;
      row = rowOf[column]!;
      visited.push(row);
    }
    rowPrice[start]! += reached;
    for (const other of visited.slice(1)) rowPrice[other]! += reached - length[columnOf[other]!]!;
    for (let j = 0; j < width; j++) if (done[j]) columnPrice[j]! -= reached - length[j]!;
    for (;;) {
      const owner = path[column]!;
      rowOf[column] = owner;
      [columnOf[owner], column] = [column, columnOf[owner]!];
      if (owner === start) break;
    }
  }
  return columnOf;
}

/** A fixed number in 0..1 for each pair, by 32-bit integers: the same on any device. */
function tieBreak(row: number, column: number): number {
  let mixed = Math.imul(row, 0x9e3779b1) ^ Math.imul(column, 0x85ebca77);
  mixed ^= mixed >>> 16;
  mixed = Math.imul(mixed, 0xc2b2ae3d);
  mixed ^= mixed >>> 15;
  return (mixed >>> 0) * 2 ** -32;
}
