"""Options of a tracker, typed and validated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from edgekit.errors import UsageError, choices
from edgekit.structures import from_builtins

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class TrackerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options that every tracker has.

    Args:
        lost_seconds: how long a track lives on unseen; found again within it, it keeps its id. Keep it above the time
            between two updates. 1 s are the 30 frames of ByteTrack, OC-SORT and BoT-SORT at their 30 frames/s.
        confirm_seconds: how long a new track must be seen, without a miss, before it is believed and gets an id; always
            at least twice, unless this is 0. Those of a stream's first update are believed at once (ByteTrack).
        class_aware: match a track only with detections of its class. Off, as in the papers: detectors waver between
            car and truck, and each time would end one track and begin another.
        boxes: what `Tracks.boxes` has of a track that is in sight: "filter", where the filter takes it to be, which is
            steadier and nearer the truth than a single detection; or "detection", the detection's own box.
        trajectory_points: observations that `trajectory` remembers of each track.
    """

    lost_seconds: Seconds = 1.0
    confirm_seconds: Seconds = 1 / 30
    class_aware: bool = False
    boxes: Literal["filter", "detection"] = "filter"
    trajectory_points: Annotated[int, msgspec.Meta(ge=2, le=100_000)] = 128


AnyOptions = TypeVar("AnyOptions", bound=TrackerOptions)


def parsed(kind: type[AnyOptions], given: Mapping[str, Any]) -> AnyOptions:
    """Options of one kind from keywords.

    Raises:
        UsageError: an unknown name, or a value that is out of range or of another type.
    """
    for name in given:
        if name not in kind.__struct_fields__:
            raise UsageError(f"option {choices(name, kind.__struct_fields__)}")
    try:
        options = from_builtins(dict(given), kind)
    except msgspec.ValidationError as error:
        found = re.fullmatch(r"(.*) - at `\$\.(\w+)`", str(error))
        if found is None:
            raise UsageError(f"tracker options: {error}") from error
        what, name = found.groups()
        raise UsageError(f"option {name}={given[name]!r}: {what[0].lower()}{what[1:].replace('`', '')}") from error
    for name in kind.__struct_fields__:
        value = getattr(options, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"option {name}={value}: expected a finite number")
    return options
