"""``edgekit convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._command import Command
from edgekit.cli._methods import METHODS, finetune_option, methods_options
from edgekit.cli._options import imports_option, json_option, read_options
from edgekit.cli._quantities import BYTES, FRACTION, INPUT_SIZES, Counts
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.conversion.convert import Conversions

ALIASES = ("export",)

_SWITCHES = ("equalization", "bias_correction", "float_fallback")
"""Methods of the quantisation plan that ``--no-...`` switches off."""

GROUPS = {
    "Targets": ("target", "precision", "options"),
    "Model": ("contract", "size", "batch", "weights", "name", "imports", "trust"),
    "Images": ("data", "proof_data", "labels", "prompts", "choose", "seed"),
    "Quantisation": (
        "language_bits",
        "plan",
        "recipe",
        "max_drop",
        "max_size",
        "finetune",
        "replace_silu",
        "ranges",
        "no_equalization",
        "no_bias_correction",
        "no_float_fallback",
    ),
    "Checks": ("dry_run", "gate", "no_gate", "fail_if_slower"),
    "Output": ("out", "rebuild", "no_contact_sheet", "no_golden", "jobs", "as_json"),
}


@click.command(cls=Command, groups=GROUPS, renamed=METHODS, short_help="Convert a trained model to proven bundles.")
@click.argument("source")
@click.option(
    "--target",
    required=True,
    help="Targets, comma-separated, or all (see: edgekit targets). BLIP-2: also by part, as in "
    "vision=openvino,qformer=openvino,language=onnx.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="fp32, fp16, int8 ...; comma-separated. BLIP-2: also int4, or vision=int8,"
    "qformer=fp16,language=int4-awq-gptq.",
)
@click.option("--data", default="", help="Images: folder, glob, list file, .npy/.npz stack, video or hf:// dataset.")
@click.option("--proof-data", default="", help="Other images for the proof. [default: a part of --data]")
@click.option("--contract", default="", help="Contract file (YAML): what the source cannot say itself.")
@click.option(
    "--size",
    type=INPUT_SIZES,
    help="Input size, 224 or 160x224 (height x width); several in one bundle: 320,640. [default: the source's]",
)
@click.option("--batch", type=Counts(), default="1", help="Images per run; several in one bundle: 1,4. [default: 1]")
@click.option("--weights", default="", help="State dict or safetensors, for a source that is built by name.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True, help="Output folder."
)
@click.option("--rebuild", is_flag=True, help="Rebuild bundles that the same request made before.")
@click.option(
    "--no-contact-sheet", is_flag=True, help="Write no contact sheet of the source's and the bundle's results."
)
@click.option("--no-golden", is_flag=True, help="Put no golden frames into the bundle; edgekit selfcheck needs them.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Targets built at once.")
@click.option("--name", default="", help="Name of the bundles. [default: the source's]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice of images.")
@click.option(
    "--gate",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a bound of the gate: matched, iou, score_drift, extra, small ...",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would happen, what is refused, and roughly how long it takes; write no bundle.",
)
@click.option("--no-gate", is_flag=True, help="Write bundles outside their gate too, marked unproven.")
@click.option(
    "--fail-if-slower", is_flag=True, help="Fail when INT8 is not faster than the float bundle of its target."
)
@click.option("--plan", default="", help="Folder of a quantisation plan: use the one there, or write a new one.")
@click.option(
    "--recipe", default="auto", show_default=True, help="Recipe, a target's way of quantising; auto: its best."
)
@click.option(
    "--max-drop",
    type=FRACTION,
    help="Accuracy that INT8 may lose: 0.01 (or 1%) of mAP on --labels, or of agreement without labels.",
)
@click.option("--max-size", type=BYTES, help="Maximum size of a bundle: 4MB. Larger ones are not written.")
@click.option("--prompts", default="", help="BLIP-2: file with one prompt per line, for the proof.")
@click.option("--language-bits", type=float, help="BLIP-2 in int4: mean bits per weight, 4 to 8; some layers get 8.")
@click.option(
    "--labels", default="", help="Annotations, to measure the accuracy of source and bundles, and for --max-drop."
)
@click.option("--choose", type=click.IntRange(0), default=0, help="Calibrate on the N most informative images.")
@finetune_option
@click.option(
    "--replace-silu",
    is_flag=True,
    help="Use hard swish in place of SiLU in INT8 if it is faster and loses at most 0.01 of quality.",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="TARGET.NAME=VALUE",
    help="Option of a target (see: edgekit targets NAME).",
)
@click.option("--trust", is_flag=True, help="Allow unpickling: the source can run any code it likes.")
@methods_options
@imports_option
@json_option
def command(
    source: str,
    gate: tuple[str, ...],
    no_gate: bool,
    dry_run: bool,
    options: tuple[str, ...],
    no_contact_sheet: bool,
    no_golden: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Convert SOURCE and validate every result against it.

    SOURCE is a torch.export .pt2, a package.module:factory, torchvision:NAME, timm:NAME, an ultralytics .pt, a folder
    saved by transformers (also BLIP-2) or an .onnx file. Each target and precision becomes
    OUT/NAME-TARGET-PRECISION/, or nothing if its decoded results differ too much.
    """
    from edgekit.cli._progress import watched
    from edgekit.conversion.api import convert

    switches = {name: not given.pop(f"no_{name}") for name in _SWITCHES}
    with watched(None if dry_run else _expected(given), steps=not dry_run) as watch:
        done = convert(
            source,
            gate=_bounds(gate),
            gated=not no_gate,
            options=read_options(options),
            cross_layer_equalization=switches["equalization"],
            bias_correction=switches["bias_correction"],
            float_fallback=switches["float_fallback"],
            contact_sheet=not no_contact_sheet,
            golden=not no_golden,
            dry_run=dry_run,
            progress=lambda event: watch.progress(event.step, event.text, event.share),
            notice=watch.say,
            **given,
        )
    if dry_run:
        _print_dry_run(done, as_json)
        click.get_current_context().exit(0 if done.ok else 2)
    _print(done, as_json)
    click.get_current_context().exit(0 if done.ok else 1)


def _print_dry_run(planned: Conversions, as_json: bool) -> None:
    import json

    import msgspec

    from edgekit.cli._reports import table

    prepared = planned.prepared
    if as_json:
        data = {
            "prepared": msgspec.to_builtins(prepared),
            "bundles": [msgspec.to_builtins(one) for one in planned.planned],
            "skipped": [msgspec.to_builtins(one) for one in planned.skipped],
            "minutes": round(planned.minutes, 3),
            "ok": planned.ok,
        }
        say(json.dumps(data, indent=2))
        return
    contract, calibration = prepared.contract, prepared.calibration
    image = contract.image
    held = f", {calibration.held} in the hold-out set" if calibration and calibration.held else ""
    mirrored = f" of {prepared.photographs} images" if prepared.proof_views != prepared.photographs else ""
    said = {
        "source": f"{prepared.origin.kind} {prepared.origin.name}; {'; '.join(prepared.origin.notes)}",
        "contract": f"task {contract.task}, {len(contract.classes)} classes, decoder {contract.decoder.name}; input "
        f"{image.size[0]}x{image.size[1]} {image.color}, {image.resize}",
        "outputs": ", ".join(f"{name} {shape}" for name, shape in prepared.shapes.items()) or "of its parts",
        "calibration": f"{calibration.count} images ({calibration.method}){held}" if calibration else "none needed",
        "proof": f"{prepared.proof_views} views{mirrored}; reference: {prepared.reference.how}",
    }
    for key, text in said.items():
        say(f"{key:<12}{text}")
    rows = [
        [one.target, one.precision, ", ".join(one.recipes) or "-", _becomes(one.refusal)] for one in planned.planned
    ]
    rows += [[one.target, "-", "-", f"left out: {one.reason}"] for one in planned.skipped]
    table(("target", "precision", "recipes", "what happens"), rows)
    minutes = max(1, round(planned.minutes))
    say(f"roughly {minutes} min here, estimated from reading the source; no bundle is written")


def _becomes(refusal: str) -> str:
    return f"refused: {refusal}" if refusal else "built and proven"


def _expected(given: dict[str, Any]) -> dict[str, float] | None:
    """Seconds of each step by the names that progress is told by; None for models of parts, which vary too much."""
    from edgekit.conversion.arguments import names
    from edgekit.conversion.dry_run import expected_seconds

    targets, precisions = names(given["target"]), names(given["precision"])
    return expected_seconds(targets, precisions, given["recipe"], given["finetune"])


def _bounds(pairs: tuple[str, ...]) -> dict[str, float]:
    """Single bounds of gates, from ``KEY=VALUE``."""
    from edgekit.errors import UsageError

    bounds = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            bounds[key] = float(value)
        except ValueError:
            raise UsageError(f"--gate {pair}: {value!r} is not a number") from None
    return bounds


def _print(done: Any, as_json: bool) -> None:
    import json

    from edgekit.cli._options import console
    from edgekit.cli._reports import outcome_data, outcomes_table

    notes = console(stderr=True)
    if as_json:
        bundles = [outcome_data(outcome) for outcome in done.outcomes if outcome.bundle]
        failed = [outcome_data(outcome) for outcome in done.outcomes if not outcome.bundle]
        skipped = [{"target": one.target, "reason": one.reason} for one in done.skipped]
        document = {"bundles": bundles, "failed": failed, "skipped": skipped, "seconds": dict(done.seconds)}
        say(json.dumps(document, indent=2))
        return
    outcomes_table(done.outcomes, done.skipped)
    sheets = [outcome.sheet for outcome in done.outcomes if outcome.sheet]
    if sheets:
        more = f" and {len(sheets) - 1} more beside the bundles" if len(sheets) > 1 else ""
        notes.print(f"contact sheet of the results of source and bundle: {sheets[0]}{more}", markup=False)
    for outcome in done.outcomes:
        if outcome.error:
            notes.print(f"{outcome.target} {outcome.precision}: {outcome.error}", markup=False)
        elif not outcome.ok:
            failures = "; ".join(filter(None, (*outcome.evidence.failures, outcome.advice)))
            notes.print(f"{outcome.target} {outcome.precision}: unproven: {failures}", markup=False)
