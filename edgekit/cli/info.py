"""``edgekit info``."""

from __future__ import annotations

import click

from edgekit.cli._options import json_option


@click.command(short_help="Show what a bundle says of itself, its evidence included.")
@click.argument("bundle")
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Check BUNDLE and show its contract, origin, toolchain and evidence."""
    import json

    import msgspec

    from edgekit.bundle import open_bundle
    from edgekit.cli._reports import evidence_lines, megabytes

    opened = open_bundle(bundle)
    manifest = opened.manifest
    if as_json:
        click.echo(json.dumps({"path": str(opened.path), **msgspec.to_builtins(manifest)}, indent=2))
        return
    contract, rule, origin = manifest.contract, manifest.contract.image, manifest.origin
    names = ", ".join(contract.classes[:5]) + (", ..." if len(contract.classes) > 5 else "")
    lines = [
        f"{manifest.name}: {manifest.target} {manifest.precision}, {megabytes(opened.bytes)}, for {manifest.engine}",
        f"task {contract.task}, {len(contract.classes)} classes: {names}",
        f"input {rule.size[0]}x{rule.size[1]} {rule.color}, {rule.resize}; decoder {contract.decoder.name}",
        f"outputs: {', '.join(f'{t.name} {tuple(t.shape)}' for g in manifest.graphs for t in g.outputs)}",
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
    lines.append("proven" if manifest.proven else "UNPROVEN")
    click.echo("\n".join(lines))


def _toolchain(versions: dict[str, str]) -> str:
    """Packages with their versions; of an isolated environment how many it pins (``--json`` has them all)."""
    parts = [f"{name} {version}" for name, version in versions.items() if "/" not in name]
    environments = [name.partition("/")[0] for name in versions if "/" in name]
    parts += [f"environment {name} ({environments.count(name)} packages)" for name in dict.fromkeys(environments)]
    return ", ".join(parts)
