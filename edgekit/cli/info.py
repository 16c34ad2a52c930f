"""``edgekit info``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli._options import json_option
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekit.runtimes.bundle.manifest import Change, Contract, Graph, Manifest, Origin, Tensor


@click.command(short_help="Show a bundle's contract, origin and evidence.")
@click.argument("bundle")
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Check BUNDLE and show its origin, its evidence, and everything that a program needs to run its files
    (docs/MANIFEST.md)."""
    import json

    import msgspec

    from edgekit.cli._reports import evidence_lines, megabytes, variant_lines
    from edgekit.runtimes.bundle.folder import open_bundle

    opened = open_bundle(bundle)
    manifest = opened.manifest
    if as_json:
        say(json.dumps({"path": str(opened.path), **msgspec.to_builtins(manifest)}, indent=2))
        return
    origin, engines = manifest.origin, " and ".join(manifest.engines)
    lines = [
        f"{manifest.name}: {manifest.target} {manifest.precision}, {megabytes(opened.bytes)}, for {engines}",
        *_contract(manifest.contract),
        *(line for graph in manifest.graphs for line in _graph(manifest, graph)),
        *_settings(manifest),
        *_amendments(manifest),
        *(one.sentence() for one in manifest.executions or ()),
        f"made from {origin.kind} {origin.name} (sha256 {origin.sha256[:12]}) by edgekit {manifest.edgekit}",
        *(f"source: {note}" for note in origin.notes),
        *_rewrites(origin),
        f"toolchain: {_toolchain(manifest.toolchain)}",
    ]
    if manifest.options:
        given = [f"{name} {value}" for name, value in manifest.options.items() if value != ""]
        lines.append(f"options: {', '.join(given)}")
    lines += [f"{key}: {value}" for graph in manifest.graphs for key, value in graph.report.items()]
    if manifest.speed:
        lines.append(f"speed: {manifest.speed.sentence()}")
    if manifest.calibration:
        calibration = manifest.calibration
        lines.append(
            f"calibrated on {calibration.count} images, {calibration.held} in the hold-out set ({calibration.method}, "
            f"sha256 {calibration.sha256[:12]})"
        )
    lines += evidence_lines(manifest.evidence) if manifest.evidence else ["no evidence"]
    lines += variant_lines(manifest.variants or ())
    lines.append("proven" if manifest.proven else "UNPROVEN")
    say("\n".join(lines))


def _rewrites(origin: Origin) -> list[str]:
    done = [f"{name} {count}" for name, count in (origin.rewrites or {}).items()]
    return [f"exact rewrites: {', '.join(done)}"] if done else []


def change_text(change: Change) -> str:
    """A change in words: ``score 0.25 -> 0.4``."""
    after = repr(change.after) if isinstance(change.after, str) else f"{change.after}"
    before = repr(change.before) if isinstance(change.before, str) else f"{change.before}"
    return f"{change.name} {after}" if change.before is None else f"{change.name} {before} -> {after}"


def _contract(contract: Contract) -> list[str]:
    """The input and the outputs."""
    if (language := contract.language) is not None:
        kind = "retrieval" if language.family == "retrieval" else f"language model {language.family}"
        prompts = [f"prompt {name}: {text!r}" for name, text in language.prompts.items()]
        return [f"task {contract.task}, BLIP-2 with {language.queries} queries, {kind}", *_image(contract), *prompts]
    names = ", ".join(contract.classes[:5]) + (", ..." if len(contract.classes) > 5 else "")
    counted = f"task {contract.task}, {len(contract.classes)} classes: {names}"
    options = "; ".join(f"{name} {_value(value)}" for name, value in contract.decoder.options.items())
    lines = [counted, *_image(contract), f"decoder {contract.decoder.name}" + (f": {options}" if options else "")]
    if contract.skeleton:
        lines.append(f"keypoints: {', '.join(contract.skeleton.names)}")
    if contract.task not in ("classify", "embed", "semantic"):
        post = contract.postprocess
        suppressed = "over all classes" if post.class_agnostic else "per class"
        nms = f"NMS {suppressed} above IoU {post.iou:g}" if post.nms else "no NMS"
        lines.append(f"thresholds: score {post.score:g}, {nms}, at most {post.max_detections} per image")
    if contract.trackers:
        lines.append(f"trackers: {', '.join(f'{name} {_value(value)}' for name, value in contract.trackers.items())}")
    return lines


def _image(contract: Contract) -> list[str]:
    """The image rule."""
    rule = contract.image
    corner = {"letterbox": f" to the {rule.align}, pad {rule.pad}", "crop": f", {rule.crop:g} of the shorter side"}
    resize = f"{rule.resize}{corner.get(rule.resize, '')}, interpolation {rule.interpolation}"
    return [
        f"input {rule.size[0]}x{rule.size[1]} (height x width) {rule.color}, {resize}",
        f"values (pixel * {rule.scale:.10g} - mean) / std; mean {_value(rule.mean)}; std {_value(rule.std)}",
    ]


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _graph(manifest: Manifest, graph: Graph) -> Iterator[str]:
    """The inputs and outputs of a file by position; what a decoder passes on to itself is left out."""
    inner = ("past.", "present.", "cross.")
    roles = manifest.contract.outputs if len(manifest.graphs) == 1 else ()
    if len(manifest.graphs) > 1:
        engine = f", {manifest.engine_of(graph)}" if len(manifest.engines) > 1 else ""
        yield f"graph {graph.name}{engine}: {graph.files[0]}"
    for place, tensor in enumerate(graph.inputs):
        if not tensor.name.startswith(inner):
            yield f"input {place}: {_tensor(tensor)}"
    shown = [(place, tensor) for place, tensor in enumerate(graph.outputs) if not tensor.name.startswith(inner)]
    for place, tensor in shown:
        role = roles[place] if place < len(roles) else None
        meaning = f" is {role.role}, level {role.level}" if role else ""
        yield f"output {place}: {_tensor(tensor)}{meaning}"
    if not shown:
        yield "outputs: keys and values for the decoder"


def _tensor(tensor: Tensor) -> str:
    layout = f" {tensor.layout}" if len(tensor.shape) == 4 else ""
    grid = f", value = (integer - {tensor.zero_point}) * {tensor.scale:.9g}" if tensor.scale else ""
    return f"{tensor.name} {tensor.dtype} {tensor.shape}{layout}{grid}"


def _settings(manifest: Manifest) -> list[str]:
    """The settings of each engine; your own program has to set them too."""
    from edgekit.runtimes.engines import engine, engine_names

    known = [engine(name) for name in manifest.engines if name in engine_names()]
    return [f"{one.name} was set to: {one.settings}" for one in known if one.settings]


def _amendments(manifest: Manifest) -> list[str]:
    lines = [f"amended {one.time}: {', '.join(map(change_text, one.changes))}" for one in manifest.amendments or ()]
    return [*lines, "the evidence was measured before"] if lines else []


def _toolchain(versions: dict[str, str]) -> str:
    """Packages with their versions; of an isolated environment how many it pins (``--json`` has them all)."""
    parts = [f"{name} {version}" for name, version in versions.items() if "/" not in name]
    environments = [name.partition("/")[0] for name in versions if "/" in name]
    parts += [f"environment {name} ({environments.count(name)} packages)" for name in dict.fromkeys(environments)]
    return ", ".join(parts)
