"""``edgekit targets``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._options import json_option
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.converters import Target


@click.command(short_help="List the targets and what is missing for them here.")
@click.argument("names", nargs=-1)
@json_option
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List every target: precisions, engine, how its result is proven here, and whether it can be made here.

    With NAMES, show the options of these targets too.
    """
    import json

    from edgekit import converters

    specs = [converters.target(name) for name in names or converters.target_names()]
    if as_json:
        say(json.dumps([_data(spec) for spec in specs], indent=2))
        return
    _print(specs)
    for spec in specs if names else ():
        _print_options(spec)


def _data(spec: Target) -> dict[str, Any]:
    from edgekit.emulators import proof_device
    from edgekit.runtimes.engines import engine

    return {
        "target": spec.name,
        "summary": spec.summary,
        "precisions": spec.precisions,
        "calibrated": spec.calibrated,
        "engine": spec.engine,
        "proof": spec.proof,
        "available": not spec.missing,
        "missing": spec.missing,
        "engine_available": engine(spec.engine).available,
        "proof_device": proof_device(spec.engine),
        "toolchains": [toolchain.name for toolchain in spec.toolchains],
        "several": spec.several,
        "options": dict(_options(spec)),
        "refuses": dict(spec.refuses),
    }


def _options(spec: Target) -> list[tuple[str, Any]]:
    defaults = spec.options()
    return [(name, getattr(defaults, name)) for name in spec.options.__struct_fields__]


def _print(specs: list[Target]) -> None:
    from edgekit.cli._reports import escape, table

    rows = [
        [
            spec.name,
            spec.summary,
            " ".join(spec.precisions),
            spec.engine,
            spec.proof,
            escape(spec.missing) or "available",
        ]
        for spec in specs
    ]
    table(("target", "for", "precisions", "engine", "proof here", "here"), rows)


def _print_options(spec: Target) -> None:
    import typing

    from edgekit.cli._reports import escape, table

    hints = typing.get_type_hints(spec.options)
    rows = [
        [
            f"{spec.name}.{name}",
            str(default),
            escape(", ".join(str(value) for value in typing.get_args(hints[name]) if value)),
        ]
        for name, default in _options(spec)
    ]
    if rows:
        table(("--option", "default", "values"), rows)
    if spec.several:
        say(f"{spec.name} takes several batches and input sizes in one bundle: --batch 1,4 --size 320,640")
    for reason in dict.fromkeys(spec.refuses.values()):
        operators = ", ".join(sorted(operator for operator, why in spec.refuses.items() if why == reason))
        say(f"{spec.name} refuses {operators}: {reason}")
