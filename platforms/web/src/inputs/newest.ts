/** One place for the newest frame: what comes while the model is busy takes the place of what has not been looked at. */

import { InputError, reason, StoppedError } from "../errors.js";
import type { FrameSource, Turn } from "./frames.js";

/** A frame and when it was seen, in seconds on any clock that runs forward. */
export interface Frame extends Turn {
  readonly source: FrameSource;
  readonly time: number;
}

/** Holds at most one frame. Whoever takes waits for it; `dropped` counts frames that nobody took in time. */
export class Newest {
  dropped = 0;
  private frame: Frame | null = null;
  private ended = false;
  private error: Error | null = null;
  private waiting: (() => void) | null = null;

  put(frame: Frame): void {
    if (this.frame) this.dropped++;
    this.frame = frame;
    this.wake();
  }

  /** No more frames come; with an error that is thrown where they are taken. */
  end(error?: Error): void {
    this.ended = true;
    this.error ??= error ?? null;
    this.wake();
  }

  /** The newest frame, null at the end. */
  async take(): Promise<Frame | null> {
    while (!this.frame && !this.ended) await new Promise<void>((resolve) => (this.waiting = resolve));
    const frame = this.frame;
    this.frame = null;
    if (!frame && this.error) throw this.error;
    return frame;
  }

  private wake(): void {
    this.waiting?.();
    this.waiting = null;
  }
}

/** Feed the frames of a video element or of an iterable; returns a function that lets go of it. */
export function feed(source: HTMLVideoElement | AsyncIterable<Frame>, turn: Turn, into: Newest): () => void {
  return Symbol.asyncIterator in source ? feedIterable(source, into) : feedVideo(source, turn, into);
}

function feedIterable(source: AsyncIterable<Frame>, into: Newest): () => void {
  const frames = source[Symbol.asyncIterator]();
  let stopped = false;
  const pump = async (): Promise<void> => {
    try {
      for (;;) {
        const { value, done } = await frames.next();
        if (stopped) return;
        if (done) break;
        into.put(value);
      }
      into.end();
    } catch (error) {
      into.end(error instanceof Error ? error : new InputError(reason(error)));
    }
  };
  void pump();
  return () => {
    stopped = true;
    void Promise.resolve(frames.return?.()).catch(() => undefined);
  };
}

function feedVideo(video: HTMLVideoElement, turn: Turn, into: Newest): () => void {
  let handle = 0;
  let presented = -1;
  const next = (now: number, { presentedFrames }: VideoFrameCallbackMetadata): void => {
    // Frames that the browser showed and told nobody of, because the page was busy, are dropped too.
    if (presented >= 0) into.dropped += Math.max(presentedFrames - presented - 1, 0);
    presented = presentedFrames;
    into.put({ ...turn, source: video, time: now / 1000 });
    handle = video.requestVideoFrameCallback(next);
  };
  const ended = (): void => into.end();
  const failed = (): void => into.end(new InputError(`the video cannot be played: ${video.error?.message || "no reason given"}`));
  const pulled = (): void => into.end(new InputError("the camera is gone: it was unplugged, or taken away from this page"));
  const stream = video.srcObject as MediaStream | null;
  const tracks = stream?.getVideoTracks?.() ?? [];
  video.addEventListener("ended", ended);
  video.addEventListener("error", failed);
  for (const track of tracks) track.addEventListener("ended", pulled);
  handle = video.requestVideoFrameCallback(next);
  return () => {
    video.cancelVideoFrameCallback(handle);
    video.removeEventListener("ended", ended);
    video.removeEventListener("error", failed);
    for (const track of tracks) track.removeEventListener("ended", pulled);
  };
}

/** What a refusal of the browser means, by its name. */
const REFUSED: Readonly<Record<string, string>> = {
  NotAllowedError: "the camera was refused; allow it for this page in the browser's settings, and ask again",
  NotFoundError: "there is no camera",
  NotReadableError: "the camera is in use by another program; close that, and ask again",
  OverconstrainedError: "no camera fits what was asked for",
  SecurityError: "this page may not use cameras",
};

/**
 * A camera into a video element, playing. End it by stopping the tracks of `video.srcObject`.
 *
 * Throws InputError: refused, none there, or in use. StoppedError: `signal` was aborted.
 */
export async function openCamera(
  video: HTMLVideoElement, constraints: MediaTrackConstraints = { facingMode: "environment" }, signal?: AbortSignal,
): Promise<MediaStream> {
  const devices = globalThis.navigator?.mediaDevices;
  if (!devices) throw new InputError("this page cannot use cameras; serve it over HTTPS or from localhost");
  let stream: MediaStream;
  try {
    stream = await devices.getUserMedia({ video: constraints, audio: false });
  } catch (error) {
    const name = error instanceof Error ? error.name : "";
    throw new InputError(REFUSED[name] ?? `the camera cannot be opened: ${reason(error)}`, { cause: error });
  }
  if (signal?.aborted) {
    for (const track of stream.getTracks()) track.stop();
    throw new StoppedError("opening the camera was stopped");
  }
  video.srcObject = stream;
  video.muted = true;
  video.playsInline = true;
  await video.play();
  return stream;
}
