"""``edgekit build``."""

from __future__ import annotations

import click

from edgekit.cli._command import UNIT, Command
from edgekit.cli._options import json_option
from edgekit.cli._terminal import say


@click.command(cls=Command, renamed=UNIT, short_help="Build a bundle's engine on this device ahead of its first load.")
@click.argument("bundle")
@click.option("--unit", default="", help="gpu, dla0, dla1. [default: gpu]")
@click.option("--strict", is_flag=True, help="Fail when a layer would leave the unit.")
@json_option
def command(bundle: str, unit: str, strict: bool, as_json: bool) -> None:
    """Build the TensorRT engine of BUNDLE for this device and keep it in the cache.

    Otherwise the first load does it, which can take minutes. The cache is in $EDGEKIT_CACHE, or in edgekit's folder of
    the user's caches. BUNDLE itself is not changed.
    """
    import json
    import time

    from edgekit.runtimes.bundle.folder import open_bundle
    from edgekit.runtimes.engines import SessionOptions
    from edgekit.runtimes.engines.tensorrt import prepare_bundle

    start = time.monotonic()
    prepared = prepare_bundle(open_bundle(bundle), SessionOptions(device=unit, strict=strict))
    seconds = round(time.monotonic() - start, 1)
    if as_json:
        data = {
            "bundle": bundle,
            "engines": [
                {"path": str(one.path), "bytes": len(one.plan), "built": one.built, "operators": one.operators}
                for one in prepared
            ],
            "seconds": seconds,
        }
        say(json.dumps(data, indent=2))
        return
    for one in prepared:
        what = f"built in {seconds} s" if one.built else "was built before"
        layers = ", ".join(f"{count} on {unit}" for unit, count in one.operators.items())
        say(f"{what}: {one.path} ({len(one.plan) / 1e6:.2f} MB; layers: {layers})")
