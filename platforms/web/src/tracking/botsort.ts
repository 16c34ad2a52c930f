/** BoT-SORT (Aharon et al., arXiv 2206.14651) without camera motion: ByteTrack with, given embeddings, appearance. */

import type { Track } from "./base.js";
import { BYTETRACK, ByteTracker, type ByteTrackOptions } from "./bytetrack.js";
import { type Observed, units } from "./detections.js";
import { parsed } from "./options.js";

export interface BoTSortOptions extends ByteTrackOptions {
  /** Half the cosine distance up to which two appearances may be one object's; 0.25. */
  readonly max_distance: number;
  /** IoU below which appearance is not asked; 0.5. */
  readonly min_proximity: number;
  /** Share of its old appearance that a track keeps at each detection; 0.9. */
  readonly memory: number;
  /** This package does not look at images. */
  readonly camera_motion: "off";
}

const DEFAULTS: BoTSortOptions = { ...BYTETRACK, max_distance: 0.25, min_proximity: 0.5, memory: 0.9, camera_motion: "off" };

/** BoT-SORT. Without embeddings it does without appearance. It does not look at images: the camera should stand still. */
export class BoTSort extends ByteTracker<BoTSortOptions> {
  override readonly usesEmbeddings = true;

  constructor(options: Partial<BoTSortOptions> = {}) {
    super(parsed(DEFAULTS, options));
  }

  protected override closeness(similarity: Float32Array, found: Observed): Float32Array {
    const fused = super.closeness(similarity, found);
    const { embeddings, dimension, count } = found;
    if (!embeddings) return fused;
    const least = Math.fround(1 - this.options.max_distance);
    const proximity = Math.fround(this.options.min_proximity);
    this.tracks.forEach(({ embedding }, i) => {
      if (!embedding?.some((value) => value !== 0)) return;
      for (let j = 0; j < count; j++) {
        if (similarity[i * count + j]! < proximity) continue;
        let product = 0;
        for (let k = 0; k < dimension; k++) product += embedding[k]! * embeddings[j * dimension + k]!;
        const alike = Math.fround(0.5 + Math.fround(0.5 * Math.fround(product))); // 1 - half the cosine distance
        if (alike >= least) fused[i * count + j] = Math.max(fused[i * count + j]!, alike);
      }
    });
    return fused;
  }

  protected override corrected(track: Track, states: Float64Array, at: number, found: Observed, row: number, time: number): void {
    // Weak detections are matched by place alone and are mostly half hidden: what they look like is not learnt.
    if (found.embeddings && found.scores[row]! >= Math.fround(this.options.high_score)) this.remember(track, found, row);
    super.corrected(track, states, at, found, row, time);
  }

  private remember(track: Track, { embeddings, dimension }: Observed, row: number): void {
    const fresh = embeddings!.slice(row * dimension, (row + 1) * dimension);
    const old = track.embedding;
    if (old?.some((value) => value !== 0)) {
      const share = Math.fround(this.options.memory);
      for (let k = 0; k < dimension; k++) fresh[k] = Math.fround(share * old[k]!) + Math.fround(Math.fround(1 - share) * fresh[k]!);
    }
    track.embedding = units(fresh, dimension);
  }
}
