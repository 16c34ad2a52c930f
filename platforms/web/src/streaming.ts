/** What runs on single frames, run on a stream of them: always on the newest. */

import { UsageError } from "./errors.js";
import type { FrameSource, Turn } from "./inputs/frames.js";
import { feed, type Frame, Newest } from "./inputs/newest.js";
import { hasBoxes, type Result, select } from "./results/results.js";
import type { Thresholds } from "./tasks/detect.js";
import { type Tracker, visible } from "./tracking/index.js";

/** What is said of one frame beside its pixels. */
export interface RunOptions extends Turn {
  readonly thresholds?: Thresholds;
  /** Of the frame, in seconds. */
  readonly time?: number;
}

export interface StreamOptions extends Turn {
  readonly thresholds?: Thresholds;
  /** Follows the objects; not used for another stream. Results then have track ids. */
  readonly tracker?: Tracker;
  /** Ends the stream. */
  readonly signal?: AbortSignal;
}

/** A model, or several that work as one: frame in, result out. */
export abstract class Streaming<R extends Result> {
  private lost = 0;

  /** Frames of streams that came while the model was busy, and were not looked at. */
  get dropped(): number {
    return this.lost;
  }

  abstract run(frame: FrameSource, options?: RunOptions): Promise<R>;

  /** Throws UsageError: closed. BusyError: running. */
  abstract checkReady(): void;

  /**
   * Results of a video element, or of frames as they come: always of the newest frame, the others are `dropped`.
   *
   * With a tracker, the model finds from its least score on, and results are the tracks that are in sight.
   *
   * Throws InputError: the video or camera fails. Otherwise as `run`.
   */
  async *stream(source: HTMLVideoElement | AsyncIterable<Frame>, options: StreamOptions = {}): AsyncGenerator<R, void, undefined> {
    const { tracker, signal, thresholds, ...turn } = options;
    this.checkReady();
    const newest = new Newest();
    const letGo = feed(source, turn, newest);
    const stop = (): void => newest.end();
    signal?.addEventListener("abort", stop);
    let counted = 0;
    try {
      for (let frame = await newest.take(); frame && !signal?.aborted; frame = await newest.take()) {
        const score = thresholds?.score ?? tracker?.leastScore;
        const found = await this.run(frame.source, {
          ...turn, ...frame, thresholds: { ...thresholds, ...(score === undefined ? {} : { score }) },
        });
        this.lost += newest.dropped - counted;
        counted = newest.dropped;
        if (signal?.aborted) return;
        yield tracker ? followed(found, tracker, frame.time) : found;
      }
    } finally {
      signal?.removeEventListener("abort", stop);
      letGo();
    }
  }
}

/**
 * The tracks in sight as a result: the detections of theirs, with track ids. Plain boxes are the tracks', inside the
 * frame; those around masks and keypoints stay as found.
 */
function followed<R extends Result>(found: R, tracker: Tracker, time: number): R {
  if (!hasBoxes(found)) throw new UsageError(`${found.kind} have no boxes, so there is nothing to track`);
  const tracks = visible(tracker.update(found.boxes, found.scores, found.classIds, { time }));
  const seen = select(found, tracks.detections, tracks.trackIds);
  if (seen.kind !== "detections") return seen;
  return { ...seen, boxes: tracks.boxes.map((value, i) => Math.min(Math.max(value, 0), found.size[i % 2]!)) };
}
