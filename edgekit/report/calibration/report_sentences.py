"""What a plan comes to, in sentences: what was done and what it gained, and what the reader may do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from edgekit.calibration.plan import Layer, Plan, PlannedGraph, Range
from edgekit.calibration.split import FEW
from edgekit.report.page import Html, command, join, number, percent, tag

Gains = Mapping[str, Mapping[str, float]]
"""By target, the score (0..1, higher is better) of each variant: `FLOAT`, any others, and `PLAN`."""

FLOAT = "float"
PLAN = "plan"

WIDE = 30.0
"""Channels of an input that differ more times than this are worth a look; one scale holds about 100."""

FAILS = 100.0
NOISY = 0.1
"""A depthwise layer whose input channels differ more than `FAILS` times loses the small ones in INT8, and so does any
layer where rounding the input makes more than the share `NOISY` of the output's variance."""

REASONS = {"channels": "channels too unequal for one scale", "places": "places of keypoints"}
"""The plan's words for why a layer stays in float, where they need more of them."""

COSTLY = 0.005
"""Damage of one layer that is worth a sentence."""

UNLIKE = 0.3

CALIBRATE = "edgekit calibrate SOURCE --data DIR -o plan/"


def done(plan: Plan, gains: Gains | None) -> list[Html]:
    """What was done to the model, and what that gained where it was measured."""
    return [
        *_gained(gains or {}),
        _islands(plan.mixed, plan.methods.islands),
        *_equalised(plan),
        _ranges(plan.mixed.tensors.values(), plan.methods.ranges),
        _weights(plan),
        *_tuned(plan),
    ]


def next_steps(plan: Plan) -> list[Html]:
    """What is worth doing, the most important first; at the end, to convert with the plan."""
    return [*_about_data(plan), *_about_layers(plan), *_about_methods(plan), _convert()]


def clipped(found: Range) -> float:
    """The share (0..1) of what was seen of a tensor that lies outside the affine range."""
    span = found.highest - found.lowest
    inside = min(found.high, found.highest) - max(found.low, found.lowest)
    return min(max(1 - inside / span, 0.0), 1.0) if span > 0 else 0.0


def wide(graph: PlannedGraph) -> list[Layer]:
    """The layers whose input channels differ more than `WIDE` times, the widest first."""
    return sorted((layer for layer in graph.layers if layer.spread > WIDE), key=lambda layer: -layer.spread)


def fails(layer: Layer) -> bool:
    """Whether one 8-bit scale cannot hold the input of a layer."""
    return layer.noise > NOISY or (layer.depthwise and layer.spread > FAILS)


def measured(layers: Iterable[Layer]) -> list[Layer]:
    """The layers whose damage is known, the worst first; layers of equal damage in their order."""
    return sorted((layer for layer in layers if layer.damage is not None), key=lambda layer: -(layer.damage or 0.0))


def duration(seconds: float) -> str:
    """``48 s``, ``2 min 5 s`` or ``1 h 4 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{number(seconds, 2) if 0 < seconds < 10 else whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def count(amount: int, one: str, several: str = "") -> str:
    """``1 layer``, ``1,200 layers``."""
    return f"{amount:,} {one if amount == 1 else several or one + 's'}"


def naming(names: Sequence[str], most: int = 3) -> Html:
    """The first few names as code, and how many more there are."""
    listed = join(*(tag("code", name) for name in names[:most]), by=", ")
    return join(listed, f" and {len(names) - most:,} more" if len(names) > most else "")


def _gained(gains: Gains) -> list[Html]:
    scored = {name: scores for name, scores in gains.items() if FLOAT in scores and PLAN in scores}
    if not scored:
        return []
    worst = max(scored, key=lambda name: scored[name][FLOAT] - scored[name][PLAN])
    where = f"Worst of {count(len(scored), 'target')}, {worst}" if len(scored) > 1 else f"On {worst}"
    kept = f"{where}: INT8 with this plan scores {scored[worst][PLAN]:.3f}, float {scored[worst][FLOAT]:.3f}."
    others = [
        (scores[PLAN] - score, name, other, score)
        for name, scores in scored.items()
        for other, score in scores.items()
        if other not in (FLOAT, PLAN)
    ]
    won, name, other, score = max(others, default=(0.0, "", "", 0.0))
    most = (
        f" It gained most on {name}: {score:.3f} with {other}, {scored[name][PLAN]:.3f} with this plan."
        if won > 0
        else ""
    )
    return [tag("strong", kept + most)]


def _islands(graph: PlannedGraph, wanted: bool) -> Html:
    layers, floats = graph.layers, [layer for layer in graph.layers if layer.stays]
    if not floats:
        how = "" if wanted else " (islands are switched off)"
        return join(f"All {count(len(layers), 'layer')} become INT8{how}.")
    reasons = Counter(REASONS.get(layer.stays, layer.stays) for layer in floats).most_common()
    why = ", ".join(f"{reason} ({times})" for reason, times in reasons[:4])
    rest = sum(times for _, times in reasons[4:])
    work = percent(products_share(floats, layers))
    return join(
        f"{len(layers) - len(floats):,} of {count(len(layers), 'layer')} become INT8. {len(floats):,} stay in float "
        f"where the target can do that, {work} of the multiplications: {why}{f', others ({rest})' if rest else ''}."
    )


def products_share(some: Iterable[Layer], every: Iterable[Layer]) -> float:
    """How much of the multiplications (0..1) of ``every`` layer is in ``some``."""
    return sum(layer.products for layer in some) / max(sum(layer.products for layer in every), 1)


def _equalised(plan: Plan) -> list[Html]:
    if not plan.methods.equalisation:
        return [join("Equalisation is switched off.")]
    sentences = []
    for graph, where in ((plan.mixed, ""), (plan.integer, " for targets that compute everything in integers")):
        if graph and graph.equalised:
            worst = max(graph.equalised, key=lambda one: one.before)
            places = count(len(graph.equalised), "place")
            sentences.append(
                join(
                    f"Channels were made equal in {places}{where}; the worst, behind ",
                    tag("code", worst.layer),
                    f", differed {number(worst.before, 2)} times and now {number(worst.after, 2)}.",
                )
            )
    return sentences or [join("No channels had to be made equal.")]


def _ranges(found: Iterable[Range], method: str) -> Html:
    ranges = list(found)
    cut = sum(clipped(one) > 0.005 for one in ranges)
    how = f"by {method} alone"
    if method == "auto":
        methods = Counter(one.method for one in ranges).most_common(3)
        how = "each by the method with the least error: " + ", ".join(f"{name} ({times})" for name, times in methods)
    return join(
        f"Ranges were chosen for {count(len(ranges), 'tensor')}, {how}. In {cut:,} of them rare extremes are cut off, "
        "so that everything else has finer steps."
    )


def _weights(plan: Plan) -> Html:
    rounding = "by adaptive rounding" if plan.methods.rounding == "adaptive" else "to the nearest step"
    bias = "biases were left as they are (bias correction is switched off)"
    if plan.methods.bias_correction:
        bias = f"{count(plan.corrected, 'bias', 'biases')} corrected for what that shifts"
    return join(f"Weights were rounded {rounding}, with a scale for each output channel; {bias}.")


def _tuned(plan: Plan) -> list[Html]:
    tuning = plan.tuning
    if tuning is None:
        return []
    loss = f"the loss on images held back went from {number(tuning.before)} to {number(tuning.after)}"
    kept = f"{loss}." if tuning.kept else f"{loss}, which is no better: its result was dropped."
    return [join(f"Fine-tuning took {number(tuning.minutes)} min and {count(tuning.steps, 'step')}; {kept}")]


def _about_data(plan: Plan) -> list[Html]:
    steps, advice = [], plan.advice
    if plan.images < FEW:
        few = f"Calibrate on more than {count(plan.images, 'image')}: {FEW} or more, like those the device will see."
        steps.append(join(few))
    elif advice and not advice.enough:
        steps.append(join("Calibrate on more images: the last ones still moved the ranges."))
    if advice and advice.outliers:
        which = ", ".join(str(one.image) for one in advice.outliers[:5])
        more = f" and {len(advice.outliers) - 5} more" if len(advice.outliers) > 5 else ""
        one = len(advice.outliers) == 1
        steps.append(
            join(
                f"Look at calibration {'image' if one else 'images'} {which}{more}: unlike the others. Leave "
                f"{'it' if one else 'them'} out unless the device will see such images."
            )
        )
    if advice and advice.unlike >= UNLIKE:
        steps.append(join("Take some calibration images from where the scoring images come from: they look different."))
    return steps


def _about_layers(plan: Plan) -> list[Html]:
    steps = []
    layers = (*plan.mixed.layers, *(plan.integer.layers if plan.integer else ()))
    failing = list(dict.fromkeys(layer.name for layer in layers if fails(layer) and not layer.stays))
    if failing:
        what = f"{'have' if len(failing) > 1 else 'has'} channels that one scale cannot hold and still becomes INT8: "
        steps.append(join(naming(failing), " ", what, command("--max-drop 0.01"), " returns it to float if it costs."))
    known = measured(plan.mixed.layers)
    costly = [layer for layer in known if not layer.stays and (layer.damage or 0) > COSTLY]
    if costly:
        worst = f" alone cost up to {number(costly[0].damage)} each in INT8; "
        steps.append(join(naming([layer.name for layer in costly]), worst, command("--max-drop 0.01"), _RETURNS))
    if not known:
        steps.append(
            join("To see what each layer costs alone, measure it: ", command(f"{CALIBRATE} --sensitivity"), ".")
        )
    if (failing or costly) and plan.tuning is None:
        steps.append(join("What calibration cannot reach, ", command("--finetune 10min"), " may, without labels."))
    return steps


_RETURNS = " returns the worst to float until the loss is within that budget."


def _about_methods(plan: Plan) -> list[Html]:
    methods = plan.methods
    off = [
        name
        for name, on in (
            ("equalisation", methods.equalisation),
            ("bias correction", methods.bias_correction),
            ("islands", methods.islands),
        )
        if not on
    ]
    return [join(f"Switch {' and '.join(off)} on again, unless you wanted to see what it is worth.")] if off else []


def _convert() -> Html:
    line = "edgekit convert SOURCE --target onnx,litert --precision int8 --data DIR --plan plan/"
    return join("Convert with this plan; each bundle is proven against the source: ", command(line), ".")
