/** How a word becomes tokens: byte pairs (OPT), word pieces by their scores (T5), the longest pieces (BERT). */

import type { Json } from "../bundle/json.js";
import { BundleError } from "../errors.js";
import { numberOf, type Part, readers } from "./parts.js";

export interface Model {
  /** Pieces by id. */
  readonly pieces: ReadonlyMap<number, string>;
  readonly ids: ReadonlyMap<string, number>;
  /** Ids of one word. */
  tokens(word: string): number[];
}

/** The model of a tokenizer file; files that are older than its `type` have byte pairs. */
export const model = (part: Part): Model => (part.has("type") ? typed(part) : bytePairs(part));

const typed = readers<Model>("model", { BPE: bytePairs, Unigram: unigram, WordPiece: wordPiece });

function vocabulary(part: Part): Pick<Model, "ids" | "pieces"> {
  const ids = new Map(part.entries("vocab").map(([piece, id]) => [piece, numberOf(id, () => part.wrong(`has no number for '${piece}'`))] as const));
  return { ids, pieces: new Map([...ids].map(([piece, id]) => [id, piece])) };
}

function bytePairs(part: Part): Model {
  for (const name of ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"]) {
    if (part.json(name) && part.json(name) !== "") throw part.unknown(`has '${name}'`);
  }
  const { ids, pieces } = vocabulary(part);
  const known = (piece: string): number => {
    const id = ids.get(piece);
    if (id === undefined) throw part.wrong(`merges to '${piece}', which is no token of it`);
    return id;
  };
  /** Rank and result of each pair of tokens. */
  const merges = new Map<string, readonly [rank: number, id: number]>();
  part.array("merges").forEach((one, rank) => {
    const [left, right] = pairOf(part, one);
    merges.set(`${known(left)} ${known(right)}`, [rank, known(left + right)]);
  });
  const unknown = part.has("unk_token") ? known(part.text("unk_token")) : undefined;
  const [fuse, whole] = [part.flag("fuse_unk"), part.flag("ignore_merges")];
  const letters = (word: string): number[] => {
    const found: number[] = [];
    let missing = false;
    for (const letter of word) {
      const id = ids.get(letter);
      if (id !== undefined) found.push(id);
      else if (unknown !== undefined && !(missing && fuse)) found.push(unknown);
      missing = id === undefined;
    }
    return found;
  };
  return {
    ids,
    pieces,
    tokens(word) {
      const own = ids.get(word);
      if (whole && own !== undefined) return [own];
      const found = letters(word);
      for (;;) {
        let best: readonly [rank: number, id: number] | undefined;
        let place = 0;
        for (let i = 0; i + 1 < found.length; i++) {
          const merge = merges.get(`${found[i]} ${found[i + 1]}`);
          if (merge && (!best || merge[0] < best[0])) [best, place] = [merge, i];
        }
        if (!best) return found;
        found.splice(place, 2, best[1]);
      }
    },
  };
}

/** A merge: two texts, or one with a space between. */
function pairOf(part: Part, merge: Json): readonly [string, string] {
  const pair = typeof merge === "string" ? merge.split(" ") : Array.isArray(merge) ? merge : [];
  const [left, right] = pair;
  if (pair.length !== 2 || typeof left !== "string" || typeof right !== "string") throw part.wrong("has a merge that is no pair");
  return [left, right];
}

/** How much less likely than the least likely piece an unknown letter is. */
const UNKNOWN = 10;

function unigram(part: Part): Model {
  if (part.flag("byte_fallback")) throw part.unknown("has 'byte_fallback'");
  const ids = new Map<string, number>();
  const scores: number[] = [];
  for (const [id, entry] of part.array("vocab").entries()) {
    const [piece, score] = Array.isArray(entry) ? entry : [];
    if (typeof piece !== "string") throw part.wrong("has a piece that is no text with its score");
    ids.set(piece, id);
    scores.push(numberOf(score, () => part.wrong(`has no score of '${piece}'`)));
  }
  const unknown = part.has("unk_id") ? part.number("unk_id") : undefined;
  const least = scores.reduce((one, other) => Math.min(one, other), Infinity) - UNKNOWN;
  const longest = [...ids.keys()].reduce((most, piece) => Math.max(most, [...piece].length), 1);
  return {
    ids,
    pieces: new Map([...ids].map(([piece, id]) => [id, piece])),
    tokens(word) {
      const letters = [...word];
      /** For each place the best way there: its score, where its last piece begins, and that piece. */
      const ways: { score: number; start: number; id: number | undefined }[] = [{ score: 0, start: -1, id: undefined }];
      const offer = (end: number, start: number, id: number | undefined, score: number): void => {
        const way = ways[end];
        if (!way || score > way.score) ways[end] = { score, start, id };
      };
      for (let start = 0; start < letters.length; start++) {
        const before = ways[start]!.score;
        let piece = "";
        let single = false;
        for (let end = start + 1; end <= Math.min(letters.length, start + longest); end++) {
          piece += letters[end - 1];
          const id = ids.get(piece);
          if (id === undefined) continue;
          offer(end, start, id, scores[id]! + before);
          single ||= end === start + 1;
        }
        if (!single) offer(start + 1, start, unknown, least + before);
      }
      const found: number[] = [];
      let missing = 0; // the end of unknown letters that are one token
      for (let end = letters.length; end > 0; end = ways[end]!.start) {
        const { start, id } = ways[end]!;
        if (id === undefined) throw new BundleError("invalid", `tokenizer.json: has no piece for '${letters[start]}' and no unk_id; convert the model again`);
        if (id !== unknown) found.push(id);
        else {
          missing ||= end;
          if (start > 0 && ways[start]!.id === unknown) continue;
          found.push(ids.get(letters.slice(start, missing).join("")) ?? id);
        }
        missing = 0;
      }
      return found.reverse();
    },
  };
}

function wordPiece(part: Part): Model {
  const { ids, pieces } = vocabulary(part);
  const [prefix, unknown] = [part.text("continuing_subword_prefix"), ids.get(part.text("unk_token"))];
  const most = part.number("max_input_chars_per_word");
  if (unknown === undefined) throw part.wrong(`has no token '${part.text("unk_token")}'`);
  return {
    ids,
    pieces,
    tokens(word) {
      const letters = [...word];
      if (letters.length > most) return [unknown];
      const found: number[] = [];
      for (let start = 0; start < letters.length; ) {
        let end = letters.length;
        let id: number | undefined;
        for (; end > start && id === undefined; end--) id = ids.get((start ? prefix : "") + letters.slice(start, end).join(""));
        if (id === undefined) return [unknown];
        found.push(id);
        start = end + 1;
      }
      return found;
    },
  };
}
