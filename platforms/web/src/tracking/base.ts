/** Base class of all trackers: the life cycle of tracks. A subclass adds the matching of detections with tracks. */

import { takeFloats, takeInts } from "../arrays.js";
import { choices, UsageError } from "../errors.js";
import { boxIou } from "../tasks/similarity.js";
import { assign } from "./assignment.js";
import { type Observed, observed } from "./detections.js";
import * as kalman from "./kalman.js";
import type { TrackerOptions } from "./options.js";
import { pick, State, Trajectory, type Tracks } from "./state.js";

/** Seconds that time stamps may be off, from rounding to milliseconds. */
const CLOCK = 1e-3;

/** One object that is followed. `motion` is the state of `kalman` as of `seen`; it is never advanced in place. */
export interface Track {
  motion: Float64Array;
  readonly box: Float32Array;
  score: number;
  classId: number;
  id: number;
  state: number;
  readonly born: number;
  seen: number;
  readonly trajectory: Trajectory;
  /** Unit vector of appearance, or null. */
  embedding: Float32Array | null;
}

/** Where the tracks are expected: states of `kalman`, one after the other. */
interface Expected {
  readonly states: Float64Array;
  readonly boxes: Float32Array;
}

/** What `update` is given beside the boxes. */
export interface UpdateOptions {
  /** Of the frame, in seconds on any clock that runs forward. */
  readonly time: number;
  /** (n, d) appearance of each detection, for BoT-SORT; others ignore it. */
  readonly embeddings?: ArrayLike<number> | null;
}

/** Follows the objects of ONE stream; make another for each further stream. */
export abstract class Tracker<O extends TrackerOptions = TrackerOptions> {
  protected tracks: Track[] = [];
  protected time: number | null = null;
  private nextId = 1;
  private dimension = 0;

  constructor(readonly options: O) {}

  /** The lowest score that this tracker can use: the threshold to run a detector with. */
  abstract readonly leastScore: number;

  /** Whether it compares looks, and so wants embeddings. */
  readonly usesEmbeddings: boolean = false;

  /** Forget everything, for a new stream; ids count from 1 again. */
  reset(): void {
    this.tracks = [];
    this.time = null;
    this.nextId = 1;
    this.dimension = 0;
  }

  /**
   * Match the detections of a frame with the tracks: boxes (n, 4) xyxy in pixels, scores 0..1, in any order.
   *
   * Throws UsageError: arrays that do not fit together, NaN, or a time that is not later than the last update's.
   */
  update(
    boxes: ArrayLike<number>, scores: ArrayLike<number>, classIds: ArrayLike<number>, { time, embeddings }: UpdateOptions,
  ): Tracks {
    const found = observed(boxes, scores, classIds, this.usesEmbeddings ? embeddings : null);
    this.checkDimension(found);
    const first = this.advance(time);
    this.tracks = this.tracks.filter((track) => time - track.seen <= this.options.lost_seconds + CLOCK);
    const expected = this.expected(time);
    const matches = new Int32Array(this.tracks.length).fill(-1);
    if (matches.length && found.count) {
      const similarity = boxIou(expected.boxes, found.boxes);
      this.keepApart(similarity, found);
      this.match(similarity, found, time, matches);
    }
    return this.apply(time, found, matches, expected, first);
  }

  /**
   * Where the tracks are expected to be, for a frame in which nothing was detected on purpose. Nothing counts as missed.
   *
   * Throws UsageError: a time before that of the last update.
   */
  predict(time: number): Tracks {
    checkTime(time);
    if (this.time !== null && time < this.time) {
      throw new UsageError(`time must not be before that of the last update, ${this.time} s, but is ${time} s`);
    }
    const now = this.now(time, this.expected(time).boxes, new Int32Array(this.tracks.length).fill(-1), new Float64Array(this.tracks.length));
    const alive: number[] = [];
    for (let i = 0; i < now.length; i++) if (now.unseen[i]! <= this.options.lost_seconds + CLOCK) alive.push(i);
    return pick(now, alive);
  }

  /**
   * Where a track was seen: times in seconds and boxes (k, 4), oldest first, the newest `trajectory_points` of them.
   *
   * Throws UsageError: no track of that id is alive.
   */
  trajectory(trackId: number): { times: Float64Array; boxes: Float32Array } {
    const found = trackId < 1 ? undefined : this.tracks.find((track) => track.id === trackId);
    if (!found) {
      const alive = this.tracks.map((track) => track.id).filter((id) => id > 0).sort((a, b) => a - b);
      throw new UsageError(`track ${choices(trackId, alive)}; tracks are forgotten when they end`);
    }
    return found.trajectory.read();
  }

  /**
   * Write into `matches` (n,), full of -1, the index of each track's detection.
   *
   * `similarity` (n, m) is the IoU of where the tracks are expected with the detections; 0 where they must not match.
   */
  protected abstract match(similarity: Float32Array, found: Observed, time: number, matches: Int32Array): void;

  /** Whether a detection may begin a track when none takes it. */
  protected abstract begins(score: number): boolean;

  /** The state of a track at `at` of `states` after it was seen as a detection, in place. */
  protected corrected(_track: Track, states: Float64Array, at: number, found: Observed, row: number, _time: number): void {
    kalman.centred(found.boxes, row, MEASURED);
    kalman.correct(states, at, MEASURED);
  }

  /**
   * Match these tracks (rows) with these detections (columns): the pairs of the best total gain that are close enough.
   *
   * What is not close is rejected after the assignment, not before (SORT, section 3.3; ByteTrack, section 4.1).
   */
  protected stage(
    gains: Float32Array, width: number, rows: readonly number[], columns: readonly number[], matches: Int32Array,
    closeness: Float32Array, least: number,
  ): void {
    if (!rows.length || !columns.length) return;
    const whole = rows.length * columns.length === gains.length;
    const some = whole ? gains : new Float32Array(rows.length * columns.length);
    if (!whole) rows.forEach((row, i) => columns.forEach((column, j) => (some[i * columns.length + j] = gains[row * width + column]!)));
    const limit = Math.fround(least);
    assign(some, rows.length, columns.length).forEach((j, i) => {
      if (j < 0) return;
      const [row, column] = [rows[i]!, columns[j]!];
      if (closeness[row * width + column]! >= limit) matches[row] = column;
    });
  }

  /** Set similarities (n, m) of tracks and detections of different classes to 0, where classes count. */
  protected keepApart(similarity: Float32Array, found: Observed): void {
    if (!this.options.class_aware) return;
    this.tracks.forEach(({ classId }, i) => {
      for (let j = 0; j < found.count; j++) if (found.classIds[j] !== classId) similarity[i * found.count + j] = 0;
    });
  }

  /** Set the clock; true for the first update of the stream. */
  protected advance(time: number): boolean {
    checkTime(time);
    if (this.time !== null && !(time > this.time)) {
      throw new UsageError(
        `time must be later than that of the last update, ${this.time} s, but is ${time} s; reset() the tracker for another stream`,
      );
    }
    const first = this.time === null;
    this.time = time;
    return first;
  }

  private checkDimension({ dimension }: Observed): void {
    if (!dimension) return;
    if (this.dimension && this.dimension !== dimension) {
      throw new UsageError(`embeddings must keep their dimension: ${this.dimension} so far, now ${dimension}; reset() the tracker for another stream`);
    }
    this.dimension = dimension;
  }

  private expected(time: number): Expected {
    const count = this.tracks.length;
    const states = new Float64Array(kalman.STATE * count);
    const boxes = new Float32Array(4 * count);
    this.tracks.forEach((track, i) => {
      kalman.predict(track.motion, 0, time - track.seen, states, kalman.STATE * i);
      kalman.corners(states, kalman.STATE * i, boxes, i);
    });
    return { states, boxes };
  }

  /** Make the matches part of the tracks, begin and end tracks, and say what there is now. */
  private apply(time: number, found: Observed, matches: Int32Array, { states, boxes }: Expected, first: boolean): Tracks {
    const used = new Uint8Array(found.count);
    const gaps = new Float64Array(matches.length);
    this.tracks.forEach((track, i) => {
      const row = matches[i]!;
      if (row < 0) {
        if (track.state === State.TRACKED) track.state = State.LOST;
        return;
      }
      if (track.state === State.LOST) gaps[i] = time - track.seen;
      this.corrected(track, states, kalman.STATE * i, found, row, time);
      this.take(track, states.slice(kalman.STATE * i, kalman.STATE * (i + 1)), found, row, time);
      if (this.options.boxes === "detection") boxes.set(track.box, 4 * i);
      else kalman.corners(track.motion, 0, boxes, i);
      used[row] = 1;
    });
    const stay: number[] = [];
    this.tracks.forEach((track, i) => {
      if (matches[i]! >= 0 || track.state !== State.TENTATIVE) stay.push(i);
    });
    this.tracks = stay.map((i) => this.tracks[i]!);
    for (const track of this.tracks) {
      if (track.state === State.TENTATIVE && time - track.born >= this.options.confirm_seconds - CLOCK) this.name(track);
    }
    const begun: number[] = [];
    for (let row = 0; row < found.count; row++) {
      if (used[row] || !this.begins(found.scores[row]!)) continue;
      begun.push(row);
      const track = this.begun(found, row, time);
      if (first || this.options.confirm_seconds === 0) this.name(track);
      this.tracks.push(track);
    }
    const count = stay.length + begun.length;
    const nowBoxes = new Float32Array(4 * count);
    nowBoxes.set(takeFloats(boxes, stay, 4));
    nowBoxes.set(takeFloats(found.boxes, begun, 4), 4 * stay.length);
    const nowGaps = new Float64Array(count);
    const detections = new Int32Array(count);
    stay.forEach((i, place) => (nowGaps[place] = gaps[i]!));
    const now = takeInts(matches, stay);
    for (let place = 0; place < count; place++) {
      const row = place < stay.length ? now[place]! : begun[place - stay.length]!;
      detections[place] = row < 0 ? -1 : found.rows[row]!;
    }
    return this.now(time, nowBoxes, detections, nowGaps);
  }

  /** Note that a track was seen as a detection. */
  private take(track: Track, motion: Float64Array, found: Observed, row: number, time: number): void {
    track.motion = motion;
    track.box.set(found.boxes.subarray(4 * row, 4 * row + 4));
    track.score = found.scores[row]!;
    track.classId = found.classIds[row]!;
    track.seen = time;
    if (track.state === State.LOST) track.state = State.TRACKED;
    track.trajectory.append(time, found.boxes, row);
  }

  private name(track: Track): void {
    track.id = this.nextId++;
    track.state = State.TRACKED;
  }

  private begun(found: Observed, row: number, time: number): Track {
    const motion = new Float64Array(kalman.STATE);
    kalman.centred(found.boxes, row, MEASURED);
    kalman.begin(MEASURED, motion, 0);
    const trajectory = new Trajectory(this.options.trajectory_points);
    trajectory.append(time, found.boxes, row);
    const { embeddings, dimension } = found;
    return {
      motion,
      box: found.boxes.slice(4 * row, 4 * row + 4),
      score: found.scores[row]!,
      classId: found.classIds[row]!,
      id: -1,
      state: State.TENTATIVE,
      born: time,
      seen: time,
      trajectory,
      embedding: embeddings && embeddings.slice(row * dimension, (row + 1) * dimension),
    };
  }

  private now(time: number, boxes: Float32Array, detections: Int32Array, gaps: Float64Array): Tracks {
    const tracks = this.tracks;
    return {
      time,
      length: tracks.length,
      trackIds: Int32Array.from(tracks, (track) => track.id),
      boxes,
      scores: Float32Array.from(tracks, (track) => track.score),
      classIds: Int32Array.from(tracks, (track) => track.classId),
      states: Int8Array.from(tracks, (track) => track.state),
      ages: Float64Array.from(tracks, (track) => time - track.born),
      unseen: Float64Array.from(tracks, (track) => time - track.seen),
      gaps,
      detections,
    };
  }
}

/** A measurement that is being looked at: one for all, because nothing is kept in it. */
const MEASURED = new Float64Array(4);

function checkTime(time: number): void {
  if (typeof time !== "number" || !Number.isFinite(time)) throw new UsageError(`time must be a finite number of seconds, not ${time}`);
}

/** Places where a condition holds, of 0 to `count` - 1. */
export function where(count: number, holds: (place: number) => boolean): number[] {
  const places: number[] = [];
  for (let i = 0; i < count; i++) if (holds(i)) places.push(i);
  return places;
}
