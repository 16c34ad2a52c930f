/** Trackers: which detection is which object, from frame to frame. One file per tracker. */

import { choices, UsageError } from "../errors.js";
import type { Tracker } from "./base.js";
import { BoTSort } from "./botsort.js";
import { ByteTrack } from "./bytetrack.js";
import { OCSort } from "./ocsort.js";
import { Sort } from "./sort.js";

export { Tracker } from "./base.js";
export { State, type Tracks, visible } from "./state.js";
export { BoTSort, type BoTSortOptions } from "./botsort.js";
export { ByteTrack, type ByteTrackOptions } from "./bytetrack.js";
export { OCSort, type OCSortOptions } from "./ocsort.js";
export { Sort, type SortOptions } from "./sort.js";

type Options = Readonly<Record<string, boolean | number | string>>;

const TRACKERS: Readonly<Record<string, new (options?: Options) => Tracker>> = {
  botsort: BoTSort,
  bytetrack: ByteTrack,
  ocsort: OCSort,
  sort: Sort,
};

/** A new tracker by name, for one stream. Throws UsageError: no such tracker or option, or a value out of range. */
export function openTracker(name: string, options: Options = {}): Tracker {
  if (!Object.hasOwn(TRACKERS, name)) throw new UsageError(`tracker ${choices(name, Object.keys(TRACKERS))}`);
  return new TRACKERS[name]!(options);
}
