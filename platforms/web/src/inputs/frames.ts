/** From what a page has (video, canvas, picture, pixels) to upright pixels. */

import { InputError, UsageError } from "../errors.js";
import type { Pixels } from "./images.js";

/** Pixels as they are, in node or from a worker: 4 bytes a pixel (RGBA), or 3 (RGB). */
export interface RawPixels {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
}

/** What a model can look at. */
export type FrameSource = RawPixels | ImageData | HTMLVideoElement | HTMLImageElement | HTMLCanvasElement | OffscreenCanvas | ImageBitmap | VideoFrame;

/** How a frame has to be turned to be upright. */
export interface Turn {
  /**
   * EXIF orientation, 1..8: how the stored pixels have to be turned. Elements of a page, and pictures that the browser
   * decoded, are upright already: 1.
   */
  readonly orientation?: number;
  /** Look at the mirror image of the upright frame: results are in its pixels. For pages that show a mirrored camera. */
  readonly mirrored?: boolean;
}

/** Pixels of a frame in memory. Throws InputError: no pixels yet, or no such thing. */
export function pixelsOf(source: FrameSource): Pixels {
  if ("data" in source && !(typeof VideoFrame !== "undefined" && source instanceof VideoFrame)) {
    const { data, width, height } = source as RawPixels;
    const channels = data.length === 3 * width * height ? 3 : 4;
    return { data: data as Uint8Array, width, height, channels };
  }
  const [width, height] = sizeOf(source as Exclude<FrameSource, RawPixels>);
  if (!(width > 0 && height > 0)) {
    throw new InputError(`the frame is ${width}x${height}: wait until the video plays (its loadeddata event) or the picture is loaded`);
  }
  const pen = penOf(width, height);
  pen.drawImage(source as CanvasImageSource, 0, 0, width, height);
  let drawn: ImageData;
  try {
    drawn = pen.getImageData(0, 0, width, height);
  } catch (error) {
    throw new InputError("the page may not read this picture: it is from another server; load it with crossOrigin", { cause: error });
  }
  return { data: drawn.data, width, height, channels: 4 };
}

function sizeOf(source: Exclude<FrameSource, RawPixels>): [number, number] {
  if ("videoWidth" in source) return [source.videoWidth, source.videoHeight];
  if ("naturalWidth" in source) return [source.naturalWidth, source.naturalHeight];
  if ("displayWidth" in source) return [source.displayWidth, source.displayHeight];
  return [source.width, source.height];
}

let kept: OffscreenCanvasRenderingContext2D | undefined;

/** One canvas for all frames: a new one for each would cost more than the reading. */
function penOf(width: number, height: number): OffscreenCanvasRenderingContext2D {
  if (typeof OffscreenCanvas === "undefined") {
    throw new InputError("there is no canvas here to read a picture with; give { data, width, height } of RGBA bytes");
  }
  kept ??= new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
  if (kept.canvas.width !== width || kept.canvas.height !== height) {
    kept.canvas.width = width;
    kept.canvas.height = height;
  } else {
    kept.clearRect(0, 0, width, height);
  }
  return kept;
}

/** The upright picture of stored pixels; the pixels themselves where they are upright. */
export function upright(image: Pixels, { orientation = 1, mirrored = false }: Turn): Pixels {
  if (!(Number.isInteger(orientation) && 1 <= orientation && orientation <= 8)) {
    throw new UsageError(`orientation must be 1..8, as EXIF counts, not ${orientation}`);
  }
  if (orientation === 1 && !mirrored) return image;
  const { width: w, height: h, channels } = image;
  // Where the first upright pixel is stored, and the steps to its right and lower neighbours.
  const last = w * h - 1;
  const [first, right, down] = (
    [
      [0, 1, w],
      [w - 1, -1, w],
      [last, -1, -w],
      [last - w + 1, 1, -w],
      [0, w, 1],
      [last - w + 1, -w, 1],
      [last, -w, -1],
      [w - 1, w, -1],
    ] as const
  )[orientation - 1]!;
  const [width, height] = orientation > 4 ? [h, w] : [w, h];
  const start = mirrored ? first + (width - 1) * right : first;
  return moved(image, width, height, start, mirrored ? -right : right, down, channels);
}

function moved(image: Pixels, width: number, height: number, start: number, right: number, down: number, channels: 3 | 4): Pixels {
  const { data } = image;
  const turned = new Uint8Array(data.length);
  let to = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let from = (start + x * right + y * down) * channels;
      for (let k = 0; k < channels; k++) turned[to++] = data[from++]!;
    }
  }
  return { data: turned, width, height, channels };
}
