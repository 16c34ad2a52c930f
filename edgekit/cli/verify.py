"""``edgekit verify``."""

from __future__ import annotations

import click

from edgekit.cli._options import imports_option, json_option
from edgekit.cli._terminal import say


@click.command(short_help="Compare a bundle with its source again.")
@click.argument("bundle")
@click.option("--against", "source", required=True, help="The source it was made from.")
@click.option("--data", required=True, help="Images: folder, glob, list file, .npy/.npz stack or video.")
@click.option("--contract", default="", help="Contract file. [default: the bundle's own contract]")
@click.option("--weights", default="", help="State dict or safetensors, for a source that is built by name.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice of images.")
@click.option("--trust", is_flag=True, help="Allow unpickling: the source can run any code it likes.")
@imports_option
@json_option
def command(
    bundle: str,
    source: str,
    data: str,
    contract: str,
    weights: str,
    seed: int,
    trust: bool,
    imports: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run BUNDLE and its source on images and compare the decoded results, at every batch and input size that it takes.

    Images that the bundle was calibrated on are left out. Exit code 1 if the bundle falls outside its gate.
    """
    import json

    import msgspec

    from edgekit.cli._progress import progress_bars
    from edgekit.cli._reports import evidence_lines, variant_lines
    from edgekit.conversion.verify import verify

    with progress_bars() as progress:
        verified = verify(
            bundle,
            source,
            data,
            contract=contract,
            weights=weights,
            seed=seed,
            trust=trust,
            imports=imports,
            progress=progress,
        )
    evidence, variants = verified.evidence, verified.variants
    if as_json:
        fresh = {"bundle": bundle, "ok": verified.passed, "evidence": msgspec.to_builtins(evidence)}
        further = {"variants": msgspec.to_builtins(variants)} if variants else {}
        say(json.dumps({**fresh, **further}, indent=2))
    else:
        say("\n".join([*evidence_lines(evidence), *variant_lines(variants)]))
    click.get_current_context().exit(0 if verified.passed else 1)
