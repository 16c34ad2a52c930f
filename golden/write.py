"""Write the golden set: ``python -m golden.write [-o FOLDER] [KIND...]``."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from golden.cases import ROOT, save
from golden.kinds import every_kind


def write(root: Path, kind: str, recorded: Path = ROOT) -> int:
    """Write all cases of a kind into a folder, in place of those that are there; returns how many.

    Args:
        root: of the set.
        kind: one of `every_kind`.
        recorded: the root of a set whose recorded inputs are taken over.
    """
    module = every_kind()[kind]
    plans = list(module.planned(recorded / kind))
    shutil.rmtree(root / kind, ignore_errors=True)
    for plan in plans:
        save(root / kind / plan.name, kind, plan, module.answer)
    return len(plans)


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default=ROOT, help="Where to write; here by default.")
@click.argument("kinds", nargs=-1)
def main(out: Path, kinds: tuple[str, ...]) -> None:
    """Write the cases of these kinds, of all by default."""
    for kind in kinds or every_kind():
        count = write(out, kind)
        size = sum(path.stat().st_size for path in (out / kind).rglob("*") if path.is_file())
        click.echo(f"{kind}: {count} cases, {size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
