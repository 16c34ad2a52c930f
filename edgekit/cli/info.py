"""``edgekit info``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli._options import json_option
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.runtimes.bundle.manifest import Contract, Manifest


@click.command(short_help="Show what a bundle says of itself, its evidence included.")
@click.argument("bundle")
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Check BUNDLE and show its contract, origin, toolchain and evidence."""
    import json

    import msgspec

    from edgekit.cli._reports import evidence_lines, megabytes
    from edgekit.runtimes.bundle.folder import open_bundle

    opened = open_bundle(bundle)
    manifest = opened.manifest
    if as_json:
        say(json.dumps({"path": str(opened.path), **msgspec.to_builtins(manifest)}, indent=2))
        return
    contract, origin, engines = manifest.contract, manifest.origin, " and ".join(manifest.engines)
    lines = [
        f"{manifest.name}: {manifest.target} {manifest.precision}, {megabytes(opened.bytes)}, for {engines}",
        *_task(contract),
        *_outputs(manifest),
        f"made from {origin.kind} {origin.name} (sha256 {origin.sha256[:12]}) by edgekit {manifest.edgekit}",
        *(f"source: {note}" for note in origin.notes),
        f"toolchain: {_toolchain(manifest.toolchain)}",
    ]
    if manifest.options:
        given = [f"{name} {value}" for name, value in manifest.options.items() if value != ""]
        lines.append(f"options: {', '.join(given)}")
    lines += [f"{key}: {value}" for graph in manifest.graphs for key, value in graph.report.items()]
    if manifest.calibration:
        calibration = manifest.calibration
        lines.append(
            f"calibrated on {calibration.count} images, {calibration.held} held back ({calibration.method}, sha256 "
            f"{calibration.sha256[:12]})"
        )
    lines += evidence_lines(manifest.evidence) if manifest.evidence else ["no evidence"]
    for variant in manifest.variants or ():
        lines.append(f"{variant}:")
        lines += [f"  {line}" for line in evidence_lines(variant.evidence)] if variant.evidence else ["  no evidence"]
    lines.append("proven" if manifest.proven else "UNPROVEN")
    say("\n".join(lines))


def _task(contract: Contract) -> list[str]:
    """What goes in, and what comes out of it."""
    rule, language = contract.image, contract.language
    corner = " to the corner" if rule.align == "corner" else ""
    image = f"input {rule.size[0]}x{rule.size[1]} {rule.color}, {rule.resize}{corner}"
    if language is None:
        names = ", ".join(contract.classes[:5]) + (", ..." if len(contract.classes) > 5 else "")
        counted = f"task {contract.task}, {len(contract.classes)} classes: {names}"
        return [counted, f"{image}; decoder {contract.decoder.name}"]
    kind = "retrieval" if language.family == "retrieval" else f"language model {language.family}"
    prompts = [f"prompt {name}: {text!r}" for name, text in language.prompts.items()]
    return [f"task {contract.task}, BLIP-2 with {language.queries} queries, {kind}", image, *prompts]


def _outputs(manifest: Manifest) -> list[str]:
    """What each graph gives; what a decoder passes on to itself is left out."""
    lines = []
    for graph in manifest.graphs:
        inner = ("past.", "present.", "cross.")
        shown = [f"{tensor.name} {tensor.shape}" for tensor in graph.outputs if not tensor.name.startswith(inner)]
        engine = f"({manifest.engine_of(graph)}) " if len(manifest.engines) > 1 else ""
        name = f"{graph.name} {engine}" if len(manifest.graphs) > 1 else ""
        lines.append(f"{name}outputs: {', '.join(shown) or 'keys and values for the decoder'}")
    return lines


def _toolchain(versions: dict[str, str]) -> str:
    """Packages with their versions; of an isolated environment how many it pins (``--json`` has them all)."""
    parts = [f"{name} {version}" for name, version in versions.items() if "/" not in name]
    environments = [name.partition("/")[0] for name in versions if "/" in name]
    parts += [f"environment {name} ({environments.count(name)} packages)" for name in dict.fromkeys(environments)]
    return ", ".join(parts)
