"""``edgekit targets``."""

from __future__ import annotations

import click

from edgekit.cli._options import json_option


@click.command(short_help="List the targets and what is missing for them here.")
@json_option
def command(as_json: bool) -> None:
    """List every target: precisions, engine, how its result is proven, and whether it can be built and run here."""
    import json

    from edgekit import converters
    from edgekit.cli._reports import table
    from edgekit.runtimes import engine

    specs = [converters.target(name) for name in converters.target_names()]
    if as_json:
        data = [
            {
                "target": spec.name,
                "summary": spec.summary,
                "precisions": spec.precisions,
                "engine": spec.engine,
                "proof": spec.proof,
                "available": not spec.missing,
                "missing": spec.missing,
                "engine_available": engine(spec.engine).available,
                "install": f"pip install edgekit[{spec.extra}]" if spec.missing else None,
            }
            for spec in specs
        ]
        click.echo(json.dumps(data, indent=2))
        return
    rows = []
    for spec in specs:
        here = (
            f"missing {', '.join(spec.missing)}: pip install edgekit\\[{spec.extra}]" if spec.missing else "available"
        )
        rows.append([spec.name, spec.summary, " ".join(spec.precisions), spec.engine, spec.proof, here])
    table(("target", "for", "precisions", "engine", "proof", "here"), rows)
