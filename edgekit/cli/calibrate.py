"""``edgekit calibrate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgekit.cli._command import Command
from edgekit.cli._methods import METHODS, finetune_option, methods_options, take_methods
from edgekit.cli._options import imports_option, json_option
from edgekit.cli._terminal import say

GROUPS = {
    "Model": ("contract", "weights", "imports", "trust"),
    "Images": ("data", "proof_data", "choose", "seed"),
    "Quantisation": (
        "finetune",
        "ranges",
        "no_equalization",
        "no_bias_correction",
        "no_float_fallback",
        "sensitivity",
    ),
    "Output": ("out", "html", "as_json"),
}


@click.command(cls=Command, groups=GROUPS, renamed=METHODS, short_help="Make a quantisation plan of a model.")
@click.argument("source")
@click.option("--data", required=True, help="Images: folder, glob, list file, .npy/.npz stack, video or hf:// dataset.")
@click.option(
    "--proof-data", default="", help="Images that look like those the device will see. [default: from --data]"
)
@click.option("--contract", default="", help="Contract file (YAML): what the source cannot say itself.")
@click.option("--weights", default="", help="State dict or safetensors, for a source that is built by name.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("plan"), show_default=True, help="Folder of the plan."
)
@click.option(
    "--sensitivity", is_flag=True, help="Measure what each layer costs when it alone is in INT8, and plot it."
)
@click.option("--choose", type=click.IntRange(0), default=0, help="Calibrate on the N most informative images.")
@finetune_option
@click.option("--html", type=click.Path(path_type=Path), default=None, help="Write a report as one HTML page.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice of images.")
@click.option("--trust", is_flag=True, help="Allow unpickling: the source can run any code it likes.")
@methods_options
@imports_option
@json_option
def command(
    source: str,
    data: str,
    proof_data: str,
    contract: str,
    weights: str,
    out: Path,
    sensitivity: bool,
    choose: int,
    finetune: float,
    html: Path | None,
    seed: int,
    trust: bool,
    imports: tuple[str, ...],
    as_json: bool,
    **methods: Any,
) -> None:
    """Make a quantisation plan: how SOURCE becomes INT8 on every target, found on the images of --data.

    The plan is a folder with a readable plan.json; use it with edgekit convert --plan.
    """
    import json

    import msgspec

    from edgekit.cli._progress import progress_bars
    from edgekit.conversion.plan_only import calibrate
    from edgekit.conversion.request import Request
    from edgekit.report.calibration import write_report, write_sensitivity_plot

    request = Request(
        source=source,
        data=data,
        proof_data=proof_data,
        contract=contract,
        weights=weights,
        choose=choose,
        finetune=finetune / 60,
        methods=take_methods(methods),
        seed=seed,
        trust=trust,
        imports=imports,
    )
    with progress_bars() as progress:
        plan = calibrate(request, out, sensitivity=sensitivity, progress=progress)
    if sensitivity:
        write_sensitivity_plot(plan.for_readers().mixed.layers, out / "sensitivity.svg")
    if html is not None:
        write_report(plan, html)
    if as_json:
        say(json.dumps(msgspec.to_builtins(plan), indent=2))
        return
    _print(plan.for_readers(), out, sensitivity)


def _print(plan: Any, out: Path, sensitivity: bool) -> None:
    from edgekit.cli._reports import table

    for line in _lines(plan):
        say(line)
    if sensitivity:
        worst = sorted(
            (layer for layer in plan.mixed.layers if layer.sensitivity is not None), key=lambda one: -one.sensitivity
        )
        rows = [
            [one.name, f"{one.sensitivity:.4f}", f"{one.channel_ratio:.0f}x", one.float_reason or "int8"]
            for one in worst[:10]
        ]
        table(("layer", "sensitivity", "channel ratio", "becomes"), rows, right=("sensitivity", "channel ratio"))
    say(f"plan: {out}")


def _lines(plan: Any) -> Iterator[str]:
    """The plan in a few plain lines."""
    from collections import Counter

    layers = plan.mixed.layers
    reasons = Counter(layer.float_reason for layer in layers if layer.float_reason)
    named = ", ".join(f"{number} {why}" for why, number in reasons.items())
    floats = reasons.total()
    yield f"layers: {len(layers) - floats} int8, {floats} in float where a target can ({named or 'none'})"
    for site in (plan.integer or plan.mixed).equalized:
        yield f"equalized: {site.layer}, channels {site.before:.0f}x apart, now {site.after:.0f}x"
    methods = Counter(one.method for one in plan.mixed.tensors.values())
    yield "ranges: " + ", ".join(f"{number} {method}" for method, number in methods.most_common())
    yield f"biases corrected: {plan.corrected}"
    for trouble in plan.fp16_issues:
        found = f"{trouble.tensor} {trouble.reason} (largest {trouble.largest:.3g})"
        yield f"float16: {found}; {trouble.node} stays float32"
    if plan.last_layer is not None:
        yield plan.last_layer.sentence()
    if plan.tuning is not None:
        tuning = plan.tuning
        kept = "kept" if tuning.kept else "nothing gained, not kept"
        yield f"fine-tuned: loss {tuning.before:.5f} -> {tuning.after:.5f} in {tuning.steps} steps ({kept})"
    if plan.advice is not None:
        yield from (f"images: {sentence}" for sentence in plan.advice.sentences)
