"""A conversion request: plain data, and the one place that validates it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgekit import converters, sources
from edgekit.calibration.plan import FILE, Methods, check_place
from edgekit.conversion.comparison import comparison
from edgekit.conversion.selection import AUTO, Selection, select
from edgekit.errors import UsageError, choices
from edgekit.graph.blip2.precision import read_part
from edgekit.runtimes.bundle.manifest import FLOATS, Gate
from edgekit.sources import Source


@dataclass(frozen=True)
class Request:
    """A source, its targets, and how to calibrate and validate.

    Attributes:
        source: what to convert, as on the command line.
        targets: names, ``("all",)``, or one for each part of a model: ``("vision=openvino", "language=onnx")``.
        precisions: each target makes those of them that it has; or one for each part, as the targets.
        out: folder of the bundles.
        data: images to calibrate on and to compare on.
        proof_data: other images to compare on.
        contract: a contract file, for sources that cannot say everything themselves.
        weights: of a source that is code.
        name: of the bundles, the source's own when left out.
        seed: of the choice of images.
        trust: allow unpickling the source.
        gated: without it a bundle outside its gate is written all the same and marked unproven.
        gates: bounds in place of those of a precision, by precision.
        bounds: single bounds, of every precision.
        jobs: targets built at once.
        threads: CPU threads of each.
        imports: modules that register decoders.
        options: options of the targets' own by target, as text.
        methods: what the quantisation plan does.
        plan: folder of a quantisation plan, to take over or to leave one in.
        recipe: way of quantising, `AUTO` for the best of the target's.
        max_drop: what INT8 may lose (0..1).
        max_size: bytes that a bundle may have.
        labels: labelled images to measure that loss on, and the accuracy of the source and of every bundle.
        finetune: minutes of fine-tuning.
        replace_silu: try hard swish in place of SiLU in what is quantised on images.
        choose: number of calibration images, the most informative ones; 0 for all.
        prompts: file of prompts, for models that write.
        language_bits: bits that a weight of a language part in int4 may have in the mean, 4 to 8.
        size: (height, width) of the input, the source's own when left out.
        sizes: further input sizes of each bundle.
        batches: further batches of each bundle, beside one image.
        contact_sheet: draw what the source and each bundle find in some images of ``data``, beside the bundle.
        golden: put golden frames into each bundle: a few images of ``data`` and what was found in them.
        fail_if_slower: a bundle that is quantised on images and not faster than the target's float bundle is a failure.
        rebuild: make bundles again that the same request left in ``out``; without it they are kept.
    """

    source: str = ""
    targets: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    out: Path = Path("out")
    data: str = ""
    proof_data: str = ""
    contract: str = ""
    weights: str = ""
    name: str = ""
    seed: int = 0
    trust: bool = False
    gated: bool = True
    gates: dict[str, Gate] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    jobs: int = 1
    threads: int = 2
    imports: tuple[str, ...] = ()
    options: dict[str, dict[str, str]] = field(default_factory=dict)
    methods: Methods = field(default_factory=Methods)
    plan: str = ""
    recipe: str = AUTO
    max_drop: float | None = None
    max_size: float = math.inf
    labels: str = ""
    finetune: float = 0.0
    replace_silu: bool = False
    choose: int = 0
    prompts: str = ""
    language_bits: float | None = None
    size: tuple[int, int] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    batches: tuple[int, ...] = ()
    contact_sheet: bool = False
    golden: bool = False
    fail_if_slower: bool = False
    rebuild: bool = False


_FLAGS = {
    "contract": "--contract",
    "weights": "--weights",
    "size": "--size",
    "batches": "--batch",
    "trust": "--trust",
    "options": "--option",
    "prompts": "--prompts",
    "language_bits": "--language-bits",
    "plan": "--plan",
    "recipe": "--recipe",
    "max_drop": "--max-drop",
    "labels": "--labels",
    "finetune": "--finetune",
    "replace_silu": "--replace-silu",
    "choose": "--choose",
    "fail_if_slower": "--fail-if-slower",
    "methods": "",
}
"""Options that not every source or bundle can use, as they are spelled on the command line."""

_METHOD_FLAGS = {
    "cross_layer_equalization": "--no-equalization",
    "ranges": "--ranges",
    "bias_correction": "--no-bias-correction",
    "rounding": "rounding",
    "float_fallback": "--no-float-fallback",
}
_ON_IMAGES = ("plan", "recipe", "methods", "max_drop", "finetune", "replace_silu", "choose")
"""Options of quantising on images."""


def source_of(request: Request) -> Source:
    """The kind of source that a request names.

    Raises:
        SourceError: no source knows it.
    """
    return sources.find(sources.SourceRequest(request.source))


def validate(request: Request, source: Source) -> Selection:
    """Check a request against its source and targets, and return the bundles to make.

    Raises:
        UsageError: something that the source or the targets do not know, or that would be ignored; says what it goes
            with, or what there is to choose from.
    """
    check_options(request, source)
    several = bool(request.batches or request.sizes)
    selection = select(
        source,
        request.targets,
        request.precisions,
        request.options,
        request.recipe,
        several,
        request.language_bits,
    )
    if not selection.calibrated:
        _refuse_without_images(request, selection)
    elif not request.data:
        raise UsageError(_needs_images(selection, source))
    _check_gates(request, source, selection)
    _check_float_partners(request, selection)
    _check_plan(request)
    return selection


def check_options(request: Request, source: Source) -> None:
    """Refuse options that the source cannot use.

    Raises:
        UsageError: names the option, and what it goes with.
    """
    for name in given_options(request):
        if name not in _usable(source):
            takers = [other.kind for other in sources.every() if name in _usable(other)]
            why = f" ({source.refuses[name]})" if name in source.refuses else ""
            raise UsageError(
                f"{_flag(name, request)} does not apply to {source.kind}{why}; leave it out. It goes with: "
                f"{'; '.join(takers)}"
            )


def given_options(request: Request) -> list[str]:
    """Names of the options in `_FLAGS` that are not left at their default."""
    default = Request()
    return [name for name in _FLAGS if getattr(request, name) != getattr(default, name)]


def gate_of(request: Request, source_written: bool, precisions: tuple[str, ...]) -> Gate:
    """The gate of a bundle whose parts have these precisions. A lower bound of all detections lowers those by size."""
    rules = comparison(written=source_written)
    word = rules.judged_by(precisions)
    gate = request.gates.get(word, rules.gates[word])
    most = request.bounds.get("matched", 1.0)
    sizes = {name: min(bound, most) for name, bound in gate.by_size.items()}
    return msgspec.structs.replace(gate, **{**sizes, **request.bounds})


def _usable(source: Source) -> frozenset[str]:
    return source.takes | comparison(written=source.written).takes


def _flag(name: str, request: Request) -> str:
    if name != "methods":
        return _FLAGS[name]
    default = Methods()
    return next(flag for key, flag in _METHOD_FLAGS.items() if getattr(request.methods, key) != getattr(default, key))


def _refuse_without_images(request: Request, selection: Selection) -> None:
    """Refuse options of calibration if no precision needs it."""
    given = [name for name in given_options(request) if name in _ON_IMAGES]
    if not given:
        return
    offered = {name: converters.target(name).calibrated for name in selection.targets}
    listed = "; ".join(f"{name}: {', '.join(words)}" for name, words in offered.items() if words)
    raise UsageError(
        f"{_flag(given[0], request)} goes with a precision that is quantised on images; give one with --precision "
        f"({listed or 'the chosen targets have none'})"
    )


def _needs_images(selection: Selection, source: Source) -> str:
    needing = next(spec.precision for spec in selection.bundles if spec.calibrated)
    if not source.written:
        return f"{needing} needs calibration images like those the device will see: give --data FOLDER"
    for part, own in ((part, own) for spec in selection.bundles for part, own in spec.parts.items()):
        if read_part(own.precision).fitted:
            return (
                f"{part} in {own.precision} is fitted to calibration images like those the device will see: give "
                "--data FOLDER, or int4, which is rounded to nearest without any"
            )
        if part == "language" and converters.target(own.target).observes(selection.options[own.target]):
            return (
                f"--option {own.target}.kv_cache=int8 needs calibration images like those the device will see: give "
                "--data FOLDER, or leave it out"
            )
    return (
        "vision in int8 needs calibration images like those the device will see: give --data FOLDER, or another "
        "precision for it (--precision vision=fp16,qformer=int8,language=int4)"
    )


def _check_gates(request: Request, source: Source, selection: Selection) -> None:
    rules = comparison(written=source.written)
    for name, bound in request.bounds.items():
        if name not in rules.bounds:
            raise UsageError(f"--gate {choices(name, rules.bounds)}")
        if not 0 <= bound <= 1:  # NaN too, which every comparison would let pass
            raise UsageError(f"--gate {name}={bound:g}: must be 0..1")
    judged = {rules.judged_by([part.precision for part in spec.parts.values()]) for spec in selection.bundles}
    for word in request.gates:
        if word not in judged:
            raise UsageError(f"gates: {choices(word, sorted(judged))}")


def _check_float_partners(request: Request, selection: Selection) -> None:
    """Refuse to judge the speed of bundles that nothing is there to compare with."""
    if not request.fail_if_slower:
        return
    integer = [spec for spec in selection.bundles if spec.precision not in FLOATS]
    if not integer:
        raise UsageError("--fail-if-slower compares INT8 with float: give both, as --precision fp32,int8")
    made = {spec.target for spec in selection.bundles if spec.precision in FLOATS}
    for spec in integer:
        there = any(next(request.out.glob(f"*-{spec.target}-{precision}"), None) for precision in FLOATS)
        if spec.target not in made and not there:
            raise UsageError(
                f"--fail-if-slower: nothing to compare {spec.target} {spec.precision} with; make a float bundle, too: "
                f"--precision fp32,{spec.precision}"
            )


def _check_plan(request: Request) -> None:
    """Refuse options that an existing plan would ignore, and a folder that holds other files.

    Raises:
        UsageError: it would have to be.
    """
    if not request.plan:
        return
    check_place(Path(request.plan))
    if request.replace_silu:
        raise UsageError(
            f"--replace-silu and --plan {request.plan}: a plan is of the network as it is; leave one of them out"
        )
    if plan_is_there(request) and (request.finetune or request.methods != Methods()):
        raise UsageError(
            f"--plan {request.plan}: a given plan is used as it is; leave out --finetune and the options of methods, "
            "or make a new plan with edgekit calibrate"
        )


def plan_is_there(request: Request) -> bool:
    """Whether the plan's folder already holds a plan to reuse."""
    return bool(request.plan) and (Path(request.plan) / FILE).is_file()
