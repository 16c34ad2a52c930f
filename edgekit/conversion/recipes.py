"""Choose between a target's recipes by their results on the hold-out set, and report the figures of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.calibration.split import FEW
from edgekit.conversion.jobs import Prepared
from edgekit.conversion.request import Request
from edgekit.evaluation.agreement import quality
from edgekit.runtimes.bundle.manifest import Evidence, Graph


@dataclass(frozen=True)
class Trial:
    """The build of one recipe: its files, and the comparison with the source on the hold-out set."""

    folder: Path
    graphs: tuple[Graph, ...]
    evidence: Evidence

    @property
    def quality(self) -> float:
        """How little the decoded results differ from the source's (0..1)."""
        return 0.0 if self.evidence.decoded is None else round(quality(self.evidence.decoded), 6)

    @property
    def found(self) -> float:
        """The same of boxes that need not be exact: IoU of 0.75 at most (0..1)."""
        decoded = self.evidence.decoded
        return 0.0 if decoded is None else round(quality(decoded, up_to=EXACT), 6)

    @property
    def standing(self) -> int:
        """0 outside its gate, 1 inside, 2 where the scores also drift no more than `MARGIN` of what the gate allows."""
        decoded, gate = self.evidence.decoded, self.evidence.gate
        near = decoded is not None and decoded.score_drift > MARGIN * gate.score_drift
        return 0 if not self.evidence.passed else 1 if near else 2

    @property
    def time(self) -> float | None:
        """Its time over that of float32, where it was built; None where that was not measured."""
        times = [graph.speed.ratio for graph in self.graphs if graph.speed]
        return sum(times) if times else None

    @property
    def bytes(self) -> int:
        """Size of its files."""
        return sum((self.folder / name).stat().st_size for graph in self.graphs for name in graph.files)


FASTER = 0.9
"""A recipe that takes less than this share of another's time is faster, whatever else the machine was doing."""

MARGIN = 2 / 3
"""Scores of other images drift more or less than those held back: MobileNetV2's plan .044 there and .099 in the proof,
where .06 is the bound."""

EXACT = 0.75
"""Boxes that match the source's at an IoU above this are as good as its own. On two photographs YOLOX-Nano's plan
matches 53 % at .95, inputs 94 % in 1.7 times the time; on fifty others their mAP is .5266 and .5234."""

LOSS = 0.03
"""The quality that speed may cost. Where few objects decide, twice the error of their share, if that is more."""


ALIKE = 0.01
"""Recipes whose qualities differ by less are alike: a small hold-out set cannot tell them apart."""


def choose(trials: Mapping[str, Trial], views: float = 1.0) -> str:
    """The best recipe: one that passes its gate beats all that fail it, and one that passes with a margin those that
    hardly do; then a faster one beats all that are not surely better; then quality decides.

    Args:
        trials: by recipe, at least one; of those that are alike the first is taken, as targets name the one first that
            they trust most.
        views: in how many views each image was shown; an object says the same in each of them, and counts once.
    """
    highest = max(trial.standing for trial in trials.values())
    judged = {recipe: trial for recipe, trial in trials.items() if trial.standing == highest}
    judged = _fastest(judged, views) if highest else judged
    best = max(trial.quality for trial in judged.values())
    return next(recipe for recipe, trial in judged.items() if trial.quality > best - ALIKE)


def _fastest(trials: dict[str, Trial], views: float) -> dict[str, Trial]:
    """Those about as fast as the fastest, of those hardly worse than the best; all of them where nothing is timed."""
    best = max(trials.values(), key=lambda trial: trial.found)
    count = best.evidence.decoded.detections / views if best.evidence.decoded else 0
    allowed = max(LOSS, 2 * math.sqrt(best.found * (1 - best.found) / count)) if count else LOSS
    near = {recipe: trial for recipe, trial in trials.items() if trial.found > best.found - allowed}
    times = {recipe: trial.time for recipe, trial in near.items() if trial.time is not None}
    if len(times) < len(near):
        return trials
    least = min(times.values())
    quick = {recipe: trial for recipe, trial in near.items() if times[recipe] <= least / FASTER}
    return quick if len(quick) < len(near) else trials


def views_of_an_image(prepared: Prepared) -> float:
    """In how many views each image held back was shown."""
    held = prepared.calibration.held if prepared.calibration else 0
    return prepared.holdout_views / held if held else 1.0


def doubt(offered: Sequence[str], best: str, trials: Mapping[str, Trial], prepared: Prepared) -> str:
    """Why the choice of ``best`` is not certain; empty where it is, or where nothing was to be chosen."""
    others = [recipe for recipe in offered if recipe != best]
    if not others:
        return ""
    if not prepared.holdout_views:
        images = f" ({prepared.calibration.count})" if prepared.calibration else ""
        return (
            f"quantised by {best}, not compared with {_or(others)}: there are too few calibration images{images} for a "
            "hold-out set; give more images (--data), or choose with --recipe"
        )
    if best in trials and trials[best].evidence.compared == "candidates":
        return (
            f"the choice of the recipe {best} over {_or(others)} is uncertain: the source finds too little "
            f"in the {prepared.holdout_views} hold-out views, so that raw outputs decided; give more images (--data), "
            "or choose with --recipe"
        )
    return _faster(best, trials, prepared)


def _faster(best: str, trials: Mapping[str, Trial], prepared: Prepared) -> str:
    """Another recipe that passes its gate and is faster, where the best one is slower than float32."""
    taken = trials.get(best)
    if taken is None or taken.time is None or taken.time < 1:
        return ""
    passed = {recipe: trial.time for recipe, trial in trials.items() if trial.evidence.passed and trial.time}
    quickest = min(passed, key=lambda recipe: passed[recipe], default=best)
    if passed.get(quickest, math.inf) > FASTER * taken.time:
        return ""
    return (
        f"the recipe {quickest} passes its gate too and takes {passed[quickest]:.2f} times the time of fp32 instead of "
        f"{taken.time:.2f}; {best} was taken for its quality on the {prepared.holdout_views} hold-out views, "
        f"{taken.quality:.3f} instead of {trials[quickest].quality:.3f}; for speed, --recipe {quickest}"
    )


def advice(
    failed: Evidence,
    offered: Sequence[str],
    best: str,
    trials: Mapping[str, Trial],
    prepared: Prepared,
    request: Request,
    finest: str,
) -> str:
    """After a failed gate: what every recipe reached, and what to try.

    Args:
        failed: the proof.
        offered: all recipes of the target.
        best: the one that was taken.
        trials: by recipe, those that were compared on the hold-out set.
        prepared: of the conversion.
        request: of the conversion.
        finest: a finer precision of the target, empty where it has none.
    """
    said = []
    if len(trials) > 1:
        reached = "; ".join(f"{recipe}: {_figures(trial.evidence)}" for recipe, trial in trials.items())
        said.append(f"on the {prepared.holdout_views} hold-out views, {reached}")
    passed = [recipe for recipe, trial in trials.items() if recipe != best and trial.evidence.passed]
    untried = [recipe for recipe in offered if recipe != best and recipe not in trials]
    ways = [f"--recipe {recipe}" for recipe in (*passed, *untried)]
    calibration = prepared.calibration
    if calibration is not None and calibration.count + calibration.held < FEW:
        ways.append(f"more images in --data ({calibration.count + calibration.held} calibrate now, {FEW} are better)")
    if not request.finetune and prepared.holdout_views:
        ways.append("--finetune 10min")
    if request.max_drop is None and prepared.holdout_views and _found_less(failed):
        ways.append("--max-drop 2%")
    if finest:
        ways.append(f"--precision {finest}")
    said.append(f"try {_or(ways)}" if ways else "")
    return "; ".join(filter(None, said))


def _found_less(evidence: Evidence) -> bool:
    """Whether more is wrong than scores, which no bound on what may be lost looks at."""
    decoded, gate = evidence.decoded, evidence.gate
    return decoded is None or decoded.matched < gate.matched or decoded.extra > gate.extra


def _figures(evidence: Evidence) -> str:
    """The figures of a recipe, in a few words."""
    decoded = evidence.decoded
    if decoded is None:
        return "not compared"
    verdict = "passes" if evidence.passed else "fails"
    return (
        f"matched {decoded.matched:.1%} of {decoded.detections}, score drift {decoded.score_drift:.4f}, "
        f"extra {decoded.extra:.1%} ({verdict})"
    )


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
