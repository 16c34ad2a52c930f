"""``edgekit.convert`` and ``edgekit.inspect``: the public functions; keywords become a request."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from edgekit.calibration.plan import Methods
from edgekit.conversion import inspect as inspecting
from edgekit.conversion.arguments import Names, Size, Sizes, StrPath, check, listed, names, one_of, pair, refuse_unknown
from edgekit.conversion.convert import Conversions
from edgekit.conversion.convert import convert as run
from edgekit.conversion.dry_run import dry_run as rehearse
from edgekit.conversion.inspect import Inspected
from edgekit.conversion.notices import Notice, ignored
from edgekit.conversion.request import Request
from edgekit.conversion.selection import AUTO
from edgekit.conversion.workspace import temporary_workspace
from edgekit.errors import EdgekitError, SourceError, StoppedError, UsageError
from edgekit.progress import OnProgress, Progress, ProgressEvent, silent
from edgekit.runtimes.bundle.manifest import Contract
from edgekit.worker.process import Stop

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    Network = nn.Module | ExportedProgram

STOPPED = "the conversion was stopped; bundles that were finished before are whole"

Ranges = Literal["auto", "min-max", "percentile", "squared"]


def convert(
    model: StrPath | Network,
    target: Names = "",
    *,
    precision: Names = "",
    data: StrPath = "",
    out: StrPath = "out",
    contract: StrPath | Contract | None = None,
    weights: StrPath = "",
    size: Sizes | None = None,
    batch: int | Sequence[int] = 1,
    name: str = "",
    proof_data: StrPath = "",
    labels: StrPath = "",
    prompts: StrPath = "",
    language_bits: float | None = None,
    choose: int = 0,
    seed: int = 0,
    plan: StrPath = "",
    recipe: str = AUTO,
    ranges: Ranges = "auto",
    cross_layer_equalization: bool = True,
    bias_correction: bool = True,
    float_fallback: bool = True,
    finetune: float = 0.0,
    replace_silu: bool = False,
    max_drop: float | None = None,
    max_size: float | None = None,
    gate: Mapping[str, float] | None = None,
    gated: bool = True,
    options: Mapping[str, Mapping[str, object]] | None = None,
    jobs: int = 1,
    threads: int = 2,
    imports: Names = (),
    trust: bool = False,
    contact_sheet: bool = False,
    golden: bool = False,
    rebuild: bool = False,
    fail_if_slower: bool = False,
    dry_run: bool = False,
    notice: Notice = ignored,
    progress: OnProgress | None = None,
    stop: Stop | None = None,
    targets: Names = "",
    precisions: Names = "",
    **unknown: NoReturn,
) -> Conversions:
    """Convert a trained model to bundles and validate each against it. A target that fails does not stop the others.

    ::

        done = edgekit.convert("detector.pt", target="litert,ncnn", precision="int8", data="photos/", out="out")
        for outcome in done:
            print(outcome.target, outcome.precision, outcome.path if outcome.ok else outcome.error)

    Args:
        model: the path of a trained model, ``package.module:factory``, or a network that is open: a `torch.nn.Module`
            in eval mode on the CPU, or a `torch.export.ExportedProgram`. An open network needs ``contract``.
        target: names of targets, as a list or separated by commas, or ``all`` (``edgekit targets`` lists them).
        precision: ``fp32`` (where it is left out), ``fp16``, ``int8`` ...; each target makes those of them that it has.
        data: images to calibrate on and to compare on: a folder, glob, list file, stack, video or ``hf://`` dataset.
        out: folder of the bundles; each is ``OUT/NAME-TARGET-PRECISION``.
        contract: what the model cannot say itself: a `edgekit.Contract`, or the path of a contract file.
        weights: state dict or safetensors for a ``module:factory``.
        size: input size, (height, width) or one number for both. The model's own when left out. A list gives bundles of
            several sizes (onnx, openvino, litert, tensorrt); `edgekit.load` takes the first unless told another.
        batch: number of images in a run, a list for several (the same targets). One image always goes.
        name: of the bundles. The model's own when left out.
        proof_data: other images to compare on. Held back from ``data`` when left out.
        labels: annotations of images, to measure ``max_drop`` on, and the accuracy of the source and of every bundle.
        prompts: file with a prompt on each line, for vision-language models.
        language_bits: bits that a weight of their language part in int4 may have in the mean, 4 to 8: the layers that
            gain the most get 8.
        choose: number of calibration images, the most informative ones; 0 for all.
        seed: of the choice of images.
        plan: folder of a quantisation plan, to take over or to leave one in.
        recipe: way of quantising; ``auto`` is the best of the target's.
        ranges: how ranges of activations are found; ``auto`` is the best for each tensor.
        cross_layer_equalization: even out channels that one scale cannot hold.
        bias_correction: let biases undo the mean shift of rounded weights.
        float_fallback: keep layers in float that INT8 would damage, where the target can.
        finetune: seconds of fine-tuning of the INT8 weights, without labels; 0 for none.
        replace_silu: try hard swish in place of SiLU in INT8 bundles, with layers fitted to the source; kept if it is
            faster and loses at most 0.01 of quality on the hold-out images.
        max_drop: what INT8 may lose (0..1): mAP on ``labels``, else agreement with the source.
        max_size: bytes that a bundle may have; a larger one is not written. A classifier's last layer becomes INT8 for
            it.
        gate: other bounds by key: ``matched``, ``iou``, ``score_drift``, ``extra``, and for boxes of that
            size ``small``, ``medium``, ``large``, each 0..1.
        gated: without it, bundles outside their gate are written too, marked unproven.
        options: options of targets by target: ``{"rknn": {"platform": "rk3566"}}``.
        jobs: targets built at once.
        threads: CPU threads of each process.
        imports: modules of yours to import first, which register decoders.
        trust: allow unpickling: the source can run any code it likes.
        contact_sheet: draw what the source and each bundle find in six of the proof images: a JPEG beside the bundle.
        golden: put two of the proof images, and what source and bundle find in them, into each bundle, so that
            `edgekit.runtimes.selfcheck` can replay them on a device.
        rebuild: make every bundle again. Without it those are kept that an earlier call left in ``out`` with the same
            source, contract, images, options and versions (``outcome.kept``).
        fail_if_slower: INT8 that is not faster than the float bundle of its target, here or in ``out``, is a failure
            (``outcome.error``); the bundle stays.
        dry_run: build nothing: read the source, choose the images, and say in ``planned`` of what comes back what would
            be made and what is refused, and in ``minutes`` roughly how long it would take.
        notice: called with each sentence worth reading as soon as it is known: notes on the source, warnings.
        progress: called with each `edgekit.ProgressEvent`, from several threads.
        stop: ends the conversion when it is pulled from another thread.
        targets: the same as ``target``.
        precisions: the same as ``precision``.

    Returns:
        One outcome for each target and precision, in order: ``bundle`` or ``error``, ``evidence``, ``path``, ``ok``.

    Raises:
        UsageError: an argument is unknown, of a wrong type or out of range; the message names it.
        SourceError, ContractError, InputError: nothing can be begun with what was given.
        StoppedError: ``stop`` was pulled.
    """
    refuse_unknown("convert", unknown, _known(convert))
    target = one_of("target", target, targets)
    precision = one_of("precision", precision, precisions) or "fp32"
    check(target=target, precision=precision, data=data, out=out, contract=contract, weights=weights, size=size)
    check(name=name, proof_data=proof_data, labels=labels, prompts=prompts, choose=choose, seed=seed, plan=plan)
    check(language_bits=language_bits)
    check(recipe=recipe, ranges=ranges, cross_layer_equalization=cross_layer_equalization, gate=gate, gated=gated)
    check(bias_correction=bias_correction, float_fallback=float_fallback, finetune=finetune, max_drop=max_drop)
    check(max_size=max_size, batch=batch, replace_silu=replace_silu)
    check(options=options, jobs=jobs, threads=threads, imports=imports, trust=trust, contact_sheet=contact_sheet)
    check(
        golden=golden, rebuild=rebuild, fail_if_slower=fail_if_slower, dry_run=dry_run, notice=notice, progress=progress
    )
    if not names(target):
        raise UsageError('convert() needs a target, such as target="onnx" or target="all"')
    stop = stop or Stop()
    sizes, batches = listed(size), (batch,) if isinstance(batch, int) else tuple(batch)
    if len(sizes) > 1 and not isinstance(model, str | os.PathLike):
        raise UsageError(
            "a network in memory is exported at one size; give its path or module:factory for several sizes"
        )
    with _source(model, contract, sizes[0] if sizes else None, name) as (source, contract_file):
        request = Request(
            source=source,
            contract=contract_file,
            targets=names(target),
            precisions=names(precision),
            out=Path(out),
            data=os.fspath(data),
            weights=os.fspath(weights),
            size=sizes[0] if sizes else None,
            sizes=sizes[1:],
            batches=tuple(sorted({one for one in batches if one > 1})),
            name=name,
            proof_data=os.fspath(proof_data),
            labels=os.fspath(labels),
            prompts=os.fspath(prompts),
            language_bits=language_bits,
            choose=choose,
            seed=seed,
            plan=os.fspath(plan),
            recipe=recipe,
            methods=Methods(
                ranges=ranges,
                cross_layer_equalization=cross_layer_equalization,
                bias_correction=bias_correction,
                float_fallback=float_fallback,
            ),
            finetune=finetune / 60,
            replace_silu=replace_silu,
            max_drop=max_drop,
            max_size=math.inf if max_size is None else max_size,
            bounds=dict(gate or {}),
            gated=gated,
            options={key: {one: str(value) for one, value in given.items()} for key, given in (options or {}).items()},
            jobs=jobs,
            threads=threads,
            imports=names(imports),
            trust=trust,
            contact_sheet=contact_sheet,
            golden=golden,
            rebuild=rebuild,
            fail_if_slower=fail_if_slower,
        )
        try:
            done = (rehearse if dry_run else run)(request, _telling(progress), stop, notice)
        except EdgekitError as error:
            if stop.pulled:  # what was running says that it was killed
                raise StoppedError(STOPPED) from error
            raise
    if stop.pulled:
        raise StoppedError(STOPPED)
    return done


def inspect(
    model: StrPath,
    *,
    weights: StrPath = "",
    size: Size | None = None,
    image: StrPath = "",
    drawn: StrPath = "",
    imports: Names = (),
    trust: bool = False,
    progress: OnProgress | None = None,
    **unknown: NoReturn,
) -> Inspected:
    """Look at a trained model before any contract: what it takes and gives, where it can be cut, which family it seems
    to be of and why, and a contract to start from.

    ::

        seen = edgekit.inspect("face_detector.onnx", image="photo.jpg", drawn="drawn.jpg")
        Path("face.yaml").write_text(seen.contract)
        edgekit.convert("face_detector.onnx", target="litert", contract="face.yaml", data="photos/")

    Args:
        model: the path of a trained model, or ``package.module:factory``.
        weights: state dict or safetensors for a ``module:factory``.
        size: input size, (height, width) or one number for both, where the model leaves it open.
        image: a photograph to try the contract on.
        drawn: where to write that photograph with what was found.
        imports: modules of yours to import first, which register decoders.
        trust: allow unpickling: the source can run any code it likes.
        progress: called with each `edgekit.ProgressEvent`.

    Raises:
        UsageError: an argument is unknown or of a wrong type, or the model needs no contract.
        SourceError, ContractError, InputError: the model or the image cannot be read.
    """
    refuse_unknown("inspect", unknown, _known(inspect))
    check(weights=weights, size=size, image=image, drawn=drawn, imports=imports, trust=trust, progress=progress)
    if not isinstance(model, str | os.PathLike):
        raise UsageError(f"inspect() takes a path or module:factory, not {type(model).__name__}")
    return inspecting.inspect(
        os.fspath(model),
        weights=os.fspath(weights),
        size=pair(size),
        image=os.fspath(image),
        drawn=os.fspath(drawn),
        trust=trust,
        imports=names(imports),
        progress=_telling(progress),
    )


def _known(function: Callable[..., object]) -> list[str]:
    """Names of the keywords that a function takes."""
    return [name for name, kind in signature(function).parameters.items() if kind.kind is kind.KEYWORD_ONLY]


def _telling(progress: OnProgress | None) -> Progress:
    """The public callback as the one that stages call."""
    if progress is None:
        return silent
    return lambda step, text, share: progress(ProgressEvent(step, text, share))


@contextlib.contextmanager
def _source(
    model: StrPath | Network, contract: StrPath | Contract | None, size: Size | None, name: str
) -> Iterator[tuple[str, str]]:
    """Paths of the source and of the contract file; objects in memory are written to a temporary folder first."""
    given = "" if contract is None or isinstance(contract, Contract) else os.fspath(contract)
    if isinstance(model, str | os.PathLike) and not isinstance(contract, Contract):
        yield os.fspath(model), given
        return
    with temporary_workspace() as workspace:
        folder = workspace.folder
        if isinstance(contract, Contract):
            from edgekit.sources.contract_file import write_contract

            given = os.fspath(write_contract(contract, folder / "contract.yaml"))
        if isinstance(model, str | os.PathLike):
            yield os.fspath(model), given
        else:
            yield os.fspath(_written(model, given, size, folder, name)), given


def _written(model: Network, contract: str, size: Size | None, folder: Path, name: str) -> Path:
    """Export a network in memory to a ``.pt2`` file, which child processes can read.

    Raises:
        UsageError: no contract, or not a network.
        SourceError: in training mode, not on the CPU, not float32, or torch.export cannot follow it.
    """
    import torch

    from edgekit.graph.exchange import export_program, save_program
    from edgekit.sources.contract_file import read_contract

    path = folder / f"{name or type(model).__name__.lower()}.pt2"
    if isinstance(model, torch.export.ExportedProgram):
        save_program(model, path)
        return path
    if not isinstance(model, torch.nn.Module):
        raise UsageError(
            f"a model is a path, module:factory, a torch.nn.Module or an ExportedProgram, not {type(model).__name__}"
        )
    if not contract:
        raise UsageError(
            "a network in memory needs its contract: convert(network, ..., contract=edgekit.Contract(...)), or the "
            "path of a contract file (docs/CONTRACT.md)"
        )
    _check(model)
    height, width = pair(size) or read_contract(Path(contract)).image.size
    save_program(export_program(model, torch.zeros(1, 3, height, width)), path)
    return path


def _check(network: nn.Module) -> None:
    """Refuse a network whose conversion would behave differently from the network itself, which is never changed."""
    import torch

    for place, part in network.named_modules():
        if part.training:
            where = f"its part {place}" if place else "the network"
            raise SourceError(f"{where} is in training mode; call .eval() on the network first")
    for place, value in network.named_parameters():
        if value.device.type != "cpu":
            raise SourceError(f"the parameter {place} is on {value.device}; call .cpu() on the network first")
        if value.is_floating_point() and value.dtype != torch.float32:
            raise SourceError(f"the parameter {place} is {value.dtype}; call .float() on the network first")
