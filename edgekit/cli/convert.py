"""``edgekit convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._command import Command
from edgekit.cli._methods import METHODS, finetune_option, methods_options, take_methods
from edgekit.cli._options import imports_option, json_option, read_options
from edgekit.cli._quantities import FRACTION, INPUT_SIZE
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.conversion.dry_run import DryRun

ALIASES = ("export",)

_SWITCHES = ("equalization", "bias_correction", "float_fallback")
"""What ``--no-...`` leaves out of the quantisation plan."""

GROUPS = {
    "Targets": ("target", "precision", "options"),
    "Model": ("contract", "size", "weights", "name", "imports", "trust"),
    "Images": ("data", "proof_data", "labels", "prompts", "choose", "seed"),
    "Quantisation": (
        "plan",
        "recipe",
        "max_drop",
        "finetune",
        "ranges",
        "no_equalization",
        "no_bias_correction",
        "no_float_fallback",
    ),
    "Checks": ("dry_run", "gate", "no_gate"),
    "Output": ("out", "no_contact_sheet", "jobs", "as_json"),
}


@click.command(cls=Command, groups=GROUPS, renamed=METHODS, short_help="Convert a trained model to proven bundles.")
@click.argument("source")
@click.option(
    "--target",
    required=True,
    help="Targets, comma-separated, or all (see: edgekit targets). BLIP-2: vision=openvino,qformer=openvino,"
    "language=onnx too.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="fp32, fp16, int8 ...; comma-separated. BLIP-2: int4 too, or vision=int8,qformer=fp16,language=int4.",
)
@click.option("--data", default="", help="Images: folder, glob, list file, .npy/.npz stack, video or hf:// dataset.")
@click.option("--proof-data", default="", help="Other images for the proof. [default: held back from --data]")
@click.option("--contract", default="", help="YAML file that states what the source cannot say itself.")
@click.option("--size", type=INPUT_SIZE, help="Input size, 224 or 160x224 (height x width). [default: the source's]")
@click.option("--weights", default="", help="State dict or safetensors, of a source that is built by name.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True, help="Folder.")
@click.option("--no-contact-sheet", is_flag=True, help="No picture of the source's and the bundle's results beside it.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Targets built at once.")
@click.option("--name", default="", help="Name of the bundles. [default: the source's]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of images.")
@click.option("--gate", multiple=True, metavar="KEY=VALUE", help="Another bound: matched, iou, score_drift or extra.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would happen, what is refused, and roughly how long; no bundle."
)
@click.option("--no-gate", is_flag=True, help="Write bundles outside their gate too, marked unproven.")
@click.option("--plan", default="", help="Folder of a quantisation plan to take over, or to leave one in.")
@click.option("--recipe", default="auto", show_default=True, help="Way of quantising; auto: the best of the target's.")
@click.option(
    "--max-drop",
    type=FRACTION,
    help="What INT8 may lose, as a difference: 0.01 of mAP on --labels, or of agreement without labels; or 1%.",
)
@click.option("--prompts", default="", help="BLIP-2: file with a prompt on each line, for the proof.")
@click.option("--labels", default="", help="Annotations: accuracy of source and bundles, and for --max-drop.")
@click.option("--choose", type=click.IntRange(0), default=0, help="Calibrate on the N most informative images.")
@finetune_option
@click.option("--option", "options", multiple=True, metavar="TARGET.NAME=VALUE", help="See: edgekit targets NAME.")
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
    as_json: bool,
    **given: Any,
) -> None:
    """Convert SOURCE and validate every result against it.

    SOURCE is a torch.export .pt2, a package.module:factory, torchvision:NAME, timm:NAME, an ultralytics .pt, a folder
    of transformers (BLIP-2 too) or an .onnx file. Each target and precision becomes OUT/NAME-TARGET-PRECISION/, or
    nothing when its decoded results differ too much.
    """
    from edgekit.cli._reports import progress_bars
    from edgekit.conversion.api import convert

    if dry_run:
        rehearsed = _dry_run({"source": source, "gate": gate, "gated": not no_gate, "options": options, **given})
        _print_dry_run(rehearsed, as_json)
        click.get_current_context().exit(0 if rehearsed.ok else 2)
    switches = {name: not given.pop(f"no_{name}") for name in _SWITCHES}
    with progress_bars() as watch:
        done = convert(
            source,
            gate=_bounds(gate),
            gated=not no_gate,
            options=read_options(options),
            cross_layer_equalization=switches["equalization"],
            bias_correction=switches["bias_correction"],
            float_fallback=switches["float_fallback"],
            contact_sheet=not no_contact_sheet,
            progress=lambda event: watch(event.step, event.text, event.share),
            **given,
        )
    _print(done, as_json)
    click.get_current_context().exit(0 if done.ok else 1)


def _dry_run(given: dict[str, Any]) -> DryRun:
    """What a conversion would do, from the values of the command's options."""
    from edgekit.cli._reports import progress_bars
    from edgekit.conversion.api import names
    from edgekit.conversion.dry_run import dry_run
    from edgekit.conversion.request import Request

    request = Request(
        targets=names(given.pop("target")),
        precisions=names(given.pop("precision")),
        bounds=_bounds(given.pop("gate")),
        options=read_options(given.pop("options")),
        methods=take_methods(given),
        finetune=given.pop("finetune") / 60,
        **given,
    )
    with progress_bars() as progress:
        return dry_run(request, progress)


def _print_dry_run(planned: DryRun, as_json: bool) -> None:
    import json

    import msgspec

    from edgekit.cli._options import console
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
    held = f", {calibration.held} held back to compare recipes on" if calibration and calibration.held else ""
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
    for doubt in prepared.reference.doubts:
        console(stderr=True).print(f"warning: {doubt}", markup=False)
    rows = [
        [one.target, one.precision, ", ".join(one.recipes) or "-", _becomes(one.refusal)] for one in planned.planned
    ]
    rows += [[one.target, "-", "-", f"left out: {one.reason}"] for one in planned.skipped]
    table(("target", "precision", "recipes", "what happens"), rows)
    minutes = max(1, round(planned.minutes))
    say(f"roughly {minutes} min here, at the pace that reading the source had; no bundle is written")


def _becomes(refusal: str) -> str:
    return f"refused: {refusal}" if refusal else "built and proven"


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
    _print_notes(done.prepared, notes)
    for outcome in done.outcomes:
        if outcome.evidence is not None and outcome.evidence.budget is not None:
            notes.print(f"{outcome.target} {outcome.precision}: {outcome.evidence.budget.sentence()}", markup=False)
        if outcome.doubt:
            notes.print(f"warning: {outcome.target} {outcome.precision}: {outcome.doubt}", markup=False)
    if as_json:
        bundles = [outcome_data(outcome) for outcome in done.outcomes if outcome.bundle]
        failed = [outcome_data(outcome) for outcome in done.outcomes if not outcome.bundle]
        skipped = [{"target": one.target, "reason": one.reason} for one in done.skipped]
        say(json.dumps({"bundles": bundles, "failed": failed, "skipped": skipped}, indent=2))
        return
    outcomes_table(done.outcomes, done.skipped)
    sheets = [outcome.sheet for outcome in done.outcomes if outcome.sheet]
    if sheets:
        more = f" and {len(sheets) - 1} more beside the bundles" if len(sheets) > 1 else ""
        notes.print(f"what source and bundle find, for a look at it: {sheets[0]}{more}", markup=False)
    for outcome in done.outcomes:
        if outcome.error:
            notes.print(f"{outcome.target} {outcome.precision}: {outcome.error}", markup=False)
        elif not outcome.ok:
            failures = "; ".join(filter(None, (*outcome.evidence.failures, outcome.advice)))
            notes.print(f"{outcome.target} {outcome.precision}: unproven: {failures}", markup=False)


def _print_notes(prepared: Any, notes: Any) -> None:
    """What was noticed while the source was prepared."""
    from edgekit.calibration.split import FEW

    for note in prepared.origin.notes:
        notes.print(f"source: {note}", markup=False)
    for doubt in prepared.reference.doubts:
        notes.print(f"warning: {doubt}", markup=False)
    if prepared.half:
        named = ", ".join(f"{one.tensor} ({one.reason}, {one.largest:.3g})" for one in prepared.half[:3])
        more = f" and {len(prepared.half) - 3} more" if len(prepared.half) > 3 else ""
        notes.print(
            f"float16 cannot hold {named}{more}: their operators stay in float32 where the target can do that (onnx, "
            "web, tensorrt)",
            markup=False,
        )
    if prepared.calibration and prepared.calibration.count + prepared.calibration.held < FEW:
        notes.print(
            f"warning: calibrated on {prepared.calibration.count} images; {FEW} or more, like those the device will "
            "see, keep INT8 more accurate",
            markup=False,
        )
