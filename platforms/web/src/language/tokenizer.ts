/** Texts to token ids and back, by a `tokenizer.json` of Hugging Face's format. */

import { type Json, parseJson } from "../bundle/json.js";
import { BundleError, reason } from "../errors.js";
import { AddedTokens } from "./added_tokens.js";
import { type Decoder, decoder } from "./decoders.js";
import { type Model, model } from "./models.js";
import { type Normalizer, normalizer } from "./normalizers.js";
import { Part, readers } from "./parts.js";
import { type PreTokenizer, preTokenizer } from "./pretokenizers.js";

/** Ids before and behind a text. */
interface Frame {
  readonly before: readonly number[];
  readonly behind: readonly number[];
}

const BARE: Frame = { before: [], behind: [] };

export class Tokenizer {
  private constructor(
    private readonly normalize: Normalizer,
    private readonly words: PreTokenizer,
    private readonly model: Model,
    private readonly frame: Frame,
    private readonly joined: Decoder,
    private readonly added: AddedTokens,
  ) {}

  /**
   * The tokenizer of a file's bytes.
   *
   * Throws BundleError: not such a file, or with a part that this package does not know; it names the part.
   */
  static read(data: Uint8Array | string): Tokenizer {
    let document: Json;
    try {
      document = parseJson(data);
    } catch (error) {
      throw new BundleError("invalid", `tokenizer.json: not a tokenizer (${reason(error)}); convert the model again`, { cause: error });
    }
    if (!(document instanceof Map)) throw new BundleError("invalid", "tokenizer.json: not a tokenizer (no object); convert the model again");
    const file = new Part(document, "document");
    for (const name of ["padding", "truncation"]) {
      if (file.has(name)) throw new BundleError("invalid", `tokenizer.json: has ${name}, which belongs to a call; convert again`);
    }
    const optional = <T>(name: string, read: (part: Part) => T, otherwise: T): T => (file.has(name) ? read(file.part(file.json(name), name)) : otherwise);
    const normalize = optional<Normalizer>("normalizer", normalizer, (text) => text);
    return new Tokenizer(
      normalize,
      optional<PreTokenizer>("pre_tokenizer", preTokenizer, (text) => [text]),
      model(file.part(file.json("model"), "model")),
      optional("post_processor", postProcessor, BARE),
      optional<Decoder>("decoder", decoder, (tokens) => tokens.join(" ")),
      new AddedTokens(file.has("added_tokens") ? file.list("added_tokens") : [], normalize),
    );
  }

  /** The ids of a text, with those that the tokenizer puts before and behind. */
  encode(text: string): number[] {
    const ids: number[] = [];
    for (const { id, text: piece, first } of this.added.split(text, this.normalize)) {
      if (id !== undefined) ids.push(id);
      // Word by word: a text may have more tokens than a call may have arguments.
      else for (const word of this.words(piece, first)) for (const token of word ? this.model.tokens(word) : []) ids.push(token);
    }
    return [...this.frame.before, ...ids, ...this.frame.behind];
  }

  /** The text of ids, without special tokens and unknown ids. */
  decode(ids: Iterable<number>): string {
    const tokens: string[] = [];
    for (const id of ids) {
      const token = this.added.content(id) ?? this.model.pieces.get(id);
      if (token !== undefined && !this.added.isSpecial(token)) tokens.push(token);
    }
    return this.joined(tokens);
  }

  /**
   * Decodes one text id by id: what is new after each, null while that is not sure, as with half a character. What is
   * never whole never comes.
   */
  pieces(): (id: number) => string | null {
    // As the package tokenizers does it: only the last tokens are decoded, of which the first are known.
    let ids: number[] = [];
    let [prefix, known] = ["", 0];
    return (id) => {
      if (!prefix && ids.length) {
        const text = this.decode(ids);
        if (!text.endsWith("\ufffd")) [prefix, known] = [text, ids.length];
      }
      ids.push(id);
      const text = this.decode(ids);
      const encoder = new TextEncoder();
      if (encoder.encode(text).length <= encoder.encode(prefix).length || text.endsWith("\ufffd")) return null;
      if (!text.startsWith(prefix)) throw new BundleError("invalid", "tokenizer.json: a later token changes the text before it; texts of it cannot be streamed");
      const piece = text.slice(prefix.length);
      const rest = ids.length - known;
      ids = ids.slice(known);
      [prefix, known] = [this.decode(ids), rest];
      return piece;
    };
  }
}

const postProcessor: (part: Part) => Frame = readers("post_processor", {
  ByteLevel: () => BARE,
  RobertaProcessing: around,
  BertProcessing: around,
  Sequence: (part) =>
    part.list("processors").map(postProcessor).reduce((all, one) => ({ before: [...one.before, ...all.before], behind: [...all.behind, ...one.behind] }), BARE),
  TemplateProcessing: (part) => {
    const special = new Map(part.entries("special_tokens").map(([name, value]) => [name, part.part(value, "special_tokens")]));
    const found: [number[], number[]] = [[], []];
    let place = 0;
    for (const item of part.list("single")) {
      if (item.has("Sequence")) place = 1;
      else {
        const name = item.object("SpecialToken").text("id");
        const token = special.get(name);
        if (!token) throw part.wrong(`has no ids of '${name}'`);
        found[place]!.push(...token.array("ids").map((id) => token.count(id)));
      }
    }
    return { before: found[0], behind: found[1] };
  },
});

function around(part: Part): Frame {
  const id = (name: string): number => part.count(part.array(name)[1] ?? null);
  return { before: [id("cls")], behind: [id("sep")] };
}
