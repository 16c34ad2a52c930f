/** The tracks of one stream: what a tracker returns of them, and where each was seen. */

/** Life-cycle state of a track: seen but not believed yet (its id is -1); believed and seen; believed and not seen. */
export const State = { TENTATIVE: 0, TRACKED: 1, LOST: 2 } as const;

/** All tracks of a stream at one moment, oldest first; arrays with one entry per track. */
export interface Tracks {
  readonly time: number;
  readonly length: number;
  /** Counted from 1 in the order in which tracks were confirmed; -1 while tentative. */
  readonly trackIds: Int32Array;
  /**
   * (n, 4) xyxy: where the filter takes the track to be after its detection (the detection's own box with the option
   * `boxes: "detection"`), or without one, where it is expected.
   */
  readonly boxes: Float32Array;
  readonly scores: Float32Array;
  readonly classIds: Int32Array;
  /** Values of `State`. */
  readonly states: Int8Array;
  /** Seconds since each was first seen, and last seen. */
  readonly ages: Float64Array;
  readonly unseen: Float64Array;
  /** Where re-found in this frame: seconds since it was last seen before; else 0. */
  readonly gaps: Float64Array;
  /** Row of the detection in the arrays given to this update, -1 without one. */
  readonly detections: Int32Array;
}

/** The tracks at these places. */
export function pick(tracks: Tracks, rows: readonly number[]): Tracks {
  const of = <A extends Int32Array | Float32Array | Int8Array | Float64Array>(values: A, width = 1): A => {
    const taken = new (values.constructor as new (length: number) => A)(rows.length * width);
    rows.forEach((row, i) => {
      for (let k = 0; k < width; k++) taken[i * width + k] = values[row * width + k]!;
    });
    return taken;
  };
  return {
    time: tracks.time,
    length: rows.length,
    trackIds: of(tracks.trackIds),
    boxes: of(tracks.boxes, 4),
    scores: of(tracks.scores),
    classIds: of(tracks.classIds),
    states: of(tracks.states),
    ages: of(tracks.ages),
    unseen: of(tracks.unseen),
    gaps: of(tracks.gaps),
    detections: of(tracks.detections),
  };
}

/** The confirmed tracks that are in sight: state TRACKED, which is what counts and what is drawn. */
export function visible(tracks: Tracks): Tracks {
  const rows: number[] = [];
  for (let i = 0; i < tracks.length; i++) if (tracks.states[i] === State.TRACKED) rows.push(i);
  return pick(tracks, rows);
}

/** The newest observations of one track, in memory that does not grow: a ring of (time, box). */
export class Trajectory {
  private readonly times: Float64Array;
  private readonly boxes: Float32Array;
  count = 0;

  constructor(private readonly size: number) {
    this.times = new Float64Array(size);
    this.boxes = new Float32Array(4 * size);
  }

  append(time: number, boxes: Float32Array, row: number): void {
    const at = this.count++ % this.size;
    this.times[at] = time;
    for (let k = 0; k < 4; k++) this.boxes[4 * at + k] = boxes[4 * row + k]!;
  }

  /** Times (k,) in seconds and boxes (k, 4), oldest first. */
  read(): { times: Float64Array; boxes: Float32Array } {
    const length = Math.min(this.count, this.size);
    const times = new Float64Array(length);
    const boxes = new Float32Array(4 * length);
    for (let i = 0; i < length; i++) {
      const at = (this.count - length + i) % this.size;
      times[i] = this.times[at]!;
      boxes.set(this.boxes.subarray(4 * at, 4 * at + 4), 4 * i);
    }
    return { times, boxes };
  }

  /** Middle of the newest observation that is not newer than `time`, else of the oldest within reach. */
  middleAtOrBefore(time: number, out: Float32Array, reach = 16): void {
    const most = Math.min(this.count, this.size, reach) - 1;
    let steps = 0;
    while (steps < most && this.times[(this.count - 1 - steps) % this.size]! > time) steps++;
    const at = 4 * ((this.count - 1 - steps) % this.size);
    out[0] = Math.fround(this.boxes[at]! + this.boxes[at + 2]!) * 0.5;
    out[1] = Math.fround(this.boxes[at + 1]! + this.boxes[at + 3]!) * 0.5;
  }
}
