/** Texts that end a generation. */

/** The text before the first of these stop texts; the whole text if none occurs. */
export function cut(text: string, stop: readonly string[]): string {
  const places = stop.map((one) => text.indexOf(one)).filter((place) => place >= 0);
  return places.length ? text.slice(0, Math.min(...places)) : text;
}

/** `cut` for a text in pieces: what is sure of each. A possible beginning of a stop text is held back until it is decided. */
export class Cutter {
  private held = "";
  /** Whether a stop text was found. */
  ended = false;

  constructor(private readonly stop: readonly string[]) {}

  /** What is sure after another piece. */
  add(piece: string): string {
    this.held += piece;
    const whole = cut(this.held, this.stop);
    this.ended = whole !== this.held;
    const sure = this.ended ? whole : this.held.slice(0, this.held.length - this.begun());
    this.held = this.ended ? "" : this.held.slice(sure.length);
    return sure;
  }

  /** What was held back, when no more pieces come. */
  rest(): string {
    return this.held;
  }

  /** Length of the longest ending that begins a stop text. */
  private begun(): number {
    let most = 0;
    for (const one of this.stop) {
      for (let size = 1; size <= Math.min(one.length, this.held.length); size++) if (this.held.endsWith(one.slice(0, size))) most = Math.max(most, size);
    }
    return most;
  }
}
