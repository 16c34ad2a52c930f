"""``edgekit inspect``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli._command import Command
from edgekit.cli._options import imports_option, json_option
from edgekit.cli._quantities import INPUT_SIZE
from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from edgekit.conversion.inspect import Inspected, Port

GROUPS = {
    "Model": ("size", "weights", "imports", "trust"),
    "Contract": ("contract_out", "image", "out"),
    "Output": ("as_json",),
}


@click.command(cls=Command, groups=GROUPS, short_help="Show a model's inputs and outputs, and write a contract for it.")
@click.argument("source")
@click.option("--contract-out", type=click.Path(path_type=Path), help="Write a contract file to start from.")
@click.option("--image", default="", help="Photograph to try the contract on.")
@click.option("-o", "--out", default="", help="Write the photograph with the results drawn in, .jpg or .png.")
@click.option(
    "--size", type=INPUT_SIZE, help="Input size, 224 or 160x224 (height x width), if the file leaves it open."
)
@click.option("--weights", default="", help="State dict or safetensors, for a source that is built by name.")
@click.option("--trust", is_flag=True, help="Allow unpickling: the source can run any code it likes.")
@imports_option
@json_option
def command(
    source: str,
    contract_out: Path | None,
    image: str,
    out: str,
    size: tuple[int, int] | None,
    weights: str,
    trust: bool,
    imports: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show SOURCE before a conversion: its inputs, the tensors that it can be cut at, the family that it seems to
    belong to and why, and a contract to start from.

    edgekit convert takes the file of --contract-out as --contract. Look at the picture first: where a file does not say
    something (colour order, scale, class names), the contract has what the family is usually trained with.
    """
    import json

    import msgspec

    from edgekit.cli._progress import progress_bars
    from edgekit.conversion.inspect import inspect
    from edgekit.errors import ContractError, InputError

    with progress_bars() as progress:
        seen = inspect(
            source,
            weights=weights,
            size=size,
            image=image,
            drawn=out,
            trust=trust,
            imports=imports,
            progress=progress,
        )
    if as_json:
        say(json.dumps(msgspec.to_builtins(seen), indent=2))
    else:
        _print(seen)
    if not seen.contract and (image or contract_out):
        wanted = "--image: nothing can be found without a contract" if image else "--contract-out: nothing was written"
        raise ContractError(f"{wanted}; {seen.doubts[0]}")
    if contract_out is None:
        return
    try:
        contract_out.write_text(seen.contract, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--contract-out {contract_out}: cannot be written: {error.strerror}") from error
    if not as_json:
        say(f"contract: {contract_out}")
        say(f"next: edgekit convert {source} --contract {contract_out} --target onnx --data PHOTOS")


def _print(seen: Inspected) -> None:
    from edgekit.cli._reports import table

    say(f"{seen.source}: {seen.kind}")
    for port in seen.inputs:
        open_size = f"  open dimensions; looked at with {seen.size[0]}x{seen.size[1]} (--size)" if port.dynamic else ""
        say(f"input   {_port(port)}{open_size}")
    for port in seen.outputs:
        say(f"output  {_port(port)}")
    if seen.heads:
        say()
        say("tensors that it can be cut at (the last convolutions), by the names that cut: takes")
        rows = [
            [
                head.tensor,
                _dims(head.shape),
                str(head.level),
                f"{head.stride:g}",
                ", ".join(head.then) or "-",
                head.role or "-",
            ]
            for head in seen.heads
        ]
        table(("tensor", "shape", "level", "stride", "then", "role"), rows, right=("level", "stride"))
    for line in _verdict(seen):
        say(line)
    for warning in seen.warnings:
        say(f"warning: {warning}")


def _verdict(seen: Inspected) -> Iterator[str]:
    """The family, the reasons, and the detections."""
    yield f"family: decoder {seen.decoder}" if seen.decoder else "family: unknown"
    yield from (f"  because: {reason}" for reason in seen.why)
    yield from (f"  check: {doubt}" for doubt in seen.doubts)
    if seen.trials:
        yield "image rules on the photograph:"
        yield from (f"  {trial.rule}: {trial.found} found, best score {trial.top:.2f}" for trial in seen.trials)
    yield from (f"  {line}" for line in seen.found)


def _port(port: Port) -> str:
    return f"{port.name}  {port.dtype} {_dims(port.shape)}"


def _dims(shape: tuple[int | str, ...]) -> str:
    return "x".join(map(str, shape))
