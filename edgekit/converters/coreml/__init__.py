"""Core ML packages (ML Programs) by coremltools: float32, float16, INT8 weights, and INT8 activations as well.

All have float32 NCHW inputs and outputs, as on every other target. Only float32 computes in float32; the others compute
in float16, which is all that a Neural Engine has.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekit.converters import Job, Report, Target, WrittenJob
from edgekit.converters.coreml.ranges import activation_ranges, float_operations
from edgekit.converters.coreml.written import write_part
from edgekit.emulators.coreml.package import MANIFEST, quietly, read_program
from edgekit.errors import ConversionError, EngineError
from edgekit.graph.blip2.precision import PART_NAMES
from edgekit.graph.exchange import INPUT
from edgekit.runtimes.bundle.manifest import Graph, Record, Tensor
from edgekit.sources import WHOLE


class CoremlOptions(Record, frozen=True):
    """``deployment`` is the oldest system that has to run the package. By default it is the oldest that has the
    network's operators: newer formats of the same network were found slower. INT8 activations need iOS 17, parts of a
    vision-language model iOS 18. Of those, ``capacity`` is how many tokens of image, prompt and answer there is room
    for, and ``text`` how many a text for retrieval has."""

    deployment: Literal["auto", "iOS15", "iOS16", "iOS17", "iOS18", "iOS26"] = "auto"
    capacity: int = 256
    text: int = 64


TARGET = Target(
    name="coreml",
    summary="iPhone, iPad and Mac with Core ML",
    engine="coreml",
    precisions=("fp32", "fp16", "int8", "w8a8"),
    requires=("coremltools", "torch"),
    distributions=("coremltools", "torch"),
    calibrated=("w8a8",),
    refuses={
        "Celu": "coremltools does not convert it; ELU is converted",
        "Det": "coremltools does not convert it",
        "DFT": "coremltools converts no Fourier transforms of torch.export programs",
        "LSTM": "coremltools converts no recurrent layers of torch.export programs",
    },
    options=CoremlOptions,
    parts=(WHOLE, *PART_NAMES),
    grid="symmetric",
)

PACKAGE = "model.mlpackage"
"""The folder that Core ML opens. Xcode takes it as it is."""

AUTO = "auto"
"""The oldest system that has the operators."""

ACTIVATIONS = "iOS17"
"""The first system with INT8 activations, and the one to try where the oldest has not all operators."""

COREMLTOOLS = "9.0"
"""INT8 activations replace a function inside coremltools, which may be another one in another version."""


def convert(job: Job, report: Report) -> Graph:
    """Write ``model.mlpackage`` in the job's precision.

    Raises:
        ConversionError: coremltools refuses the network, w8a8 has no images or too old a system, or the package is not
            what was asked for.
    """
    deployment: str = job.chosen(CoremlOptions).deployment
    if job.precision == "w8a8":
        deployment = ACTIVATIONS if deployment == AUTO else deployment
        _check_activations(deployment)
        if not len(job.calibration()):  # refuse before the slow part
            raise ConversionError("w8a8 needs calibration images, and there are none: give --data")
        job.planned()
    source = _float_package(job, deployment, "fp32" if job.precision == "fp32" else "fp16", report)
    target = job.out / PACKAGE
    try:
        with _quiet():
            if job.precision in ("fp32", "fp16"):
                shutil.copytree(source, target)
            elif job.precision == "int8":
                _int8_weights(_loaded(source)).save(str(target))
    except Exception as error:  # coremltools raises whatever its layers raise
        raise _failure(job.precision, error) from error
    if job.precision == "w8a8":
        _int8_activations(source, target, job, report)
    _tidy(target)
    return _entry(job, target)


def convert_written(job: WrittenJob, report: Report) -> Graph:
    """Write ``NAME.mlpackage``.

    Raises:
        ConversionError: a system that has no states and no weights in blocks.
        UsageError: too small a capacity.
    """
    options = job.chosen(CoremlOptions)
    if options.deployment in ("iOS15", "iOS16", "iOS17"):
        raise ConversionError(
            f"deployment={options.deployment}: parts of a vision-language model need iOS18, which has states and "
            "weights in blocks; leave deployment out"
        )
    return write_part(job.part, job.out, options.capacity, options.text)


def _failure(precision: str, error: Exception) -> ConversionError:
    words = str(error).strip().partition("\n")[0] or "no reason given"
    return ConversionError(f"Core ML {precision}: {type(error).__name__}: {words}")


def _check_activations(deployment: str) -> None:
    with quietly():
        import coremltools
    if deployment in ("iOS15", "iOS16"):
        raise ConversionError("w8a8 needs iOS17: Core ML has no INT8 activations before; give deployment=iOS17 or int8")
    if coremltools.__version__ != COREMLTOOLS:
        raise ConversionError(
            f"w8a8 is written with coremltools {COREMLTOOLS}, installed is {coremltools.__version__}: "
            f"pip install coremltools=={COREMLTOOLS}"
        )


def _float_package(job: Job, deployment: str, precision: str, report: Report) -> Path:
    """The package in a float precision, from the work folder if another precision has made it."""
    path = job.work / f"{precision}-{deployment}.mlpackage"
    if path.is_dir():
        return path
    report("loading coremltools", 0.0)
    with _quiet():
        import torch
    torch.set_num_threads(job.threads)
    report("converting with coremltools", 0.2)
    scratch = Path(tempfile.mkdtemp(prefix=f"{precision}.", dir=job.work))
    try:
        with _quiet():
            try:
                model = _converted(job, deployment, precision)
            except Exception:  # coremltools raises whatever its layers raise
                if deployment != AUTO:
                    raise
                model = _converted(job, ACTIVATIONS, precision)
            model.save(str(scratch / PACKAGE))
        with contextlib.suppress(OSError):  # another job of the same work folder was first: its package is the same
            (scratch / PACKAGE).rename(path)
    except Exception as error:  # coremltools raises whatever its layers raise
        raise _failure(job.precision, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def _converted(job: Job, deployment: str, precision: str) -> Any:
    """The network as coremltools converts it."""
    import coremltools
    import torch

    return coremltools.convert(
        torch.export.load(job.program).run_decompositions({}),
        inputs=[coremltools.TensorType(name=INPUT, shape=(1, 3, *job.contract.image.size), dtype=np.float32)],
        outputs=[coremltools.TensorType(name=name, dtype=np.float32) for name in _output_names(job)],
        minimum_deployment_target=None if deployment == AUTO else getattr(coremltools.target, deployment),
        compute_precision=getattr(coremltools.precision, {"fp32": "FLOAT32", "fp16": "FLOAT16"}[precision]),
        convert_to="mlprogram",
        skip_model_load=True,
    )


def _output_names(job: Job) -> list[str]:
    """The contract's names, where they can be names in MIL, else their numbers."""
    names = [output.name for output in job.contract.outputs]
    good = all(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name != INPUT for name in names)
    return names if good else [f"output_{number}" for number in range(len(names))]


def _loaded(package: Path) -> Any:
    import coremltools

    return coremltools.models.MLModel(str(package), skip_model_load=True)


def _int8_weights(model: Any) -> Any:
    """Weights of all sizes in symmetric INT8, with one scale for each output channel."""
    from coremltools.optimize import coreml as optimize

    each = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=WEIGHTS)
    return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=each))


WEIGHTS = 512
"""Weights of fewer values stay float16: scales and offsets would take what INT8 saves."""


def _int8_activations(source: Path, target: Path, job: Job, report: Report) -> None:
    """INT8 around the convolutions and linear layers that the plan does not leave in float, in its ranges."""
    samples, plan = job.calibration(), job.planned()
    outputs = [output.name for output in job.contract.outputs]
    try:
        ranges = activation_ranges(
            source,
            plan,
            outputs,
            samples,
            job.threads,
            lambda count: report(f"calibrating, image {count} of {len(samples)}", 0.4 + 0.5 * count / len(samples)),
        )
        report("quantising", 0.9)
        with _quiet():
            _quantised(_loaded(source), ranges, float_operations(source, plan, outputs)).save(str(target))
    except ConversionError:
        raise
    except Exception as error:  # coremltools raises whatever its layers raise
        raise _failure(job.precision, error) from error


def _quantised(model: Any, ranges: dict[str, dict[str, float]], kept_float: list[str]) -> Any:
    """coremltools' own quantisation, with our ranges where it would ask Core ML, which only a Mac has."""
    from coremltools.optimize import coreml as optimize
    from coremltools.optimize.coreml import _post_training_quantization as inside

    each = optimize.OpLinearQuantizerConfig(mode="linear")
    config = optimize.OptimizationConfig(
        op_type_configs={"conv": each, "linear": each}, op_name_configs=dict.fromkeys(kept_float)
    )
    stated = _replaced(inside, "_get_activation_calibration_stats", lambda *arguments: ranges)
    with stated, _zero_points_in_float32(), _gates_in_float():
        model = optimize.linear_quantize_activations(model, config, [])
    return _int8_weights(model)


@contextlib.contextmanager
def _zero_points_in_float32() -> Iterator[None]:
    """Keep coremltools from working out scales in float16, where 127 times a range over 515 is infinite."""
    import numpy as np
    from coremltools.optimize import _utils as inside

    theirs = inside.quantize_weight_by_dtype

    def quantise(values: Any, *arguments: Any, **options: Any) -> Any:
        quantised, scale, zero_point = theirs(values.astype(np.float32), *arguments, **options)
        return quantised, scale.astype(values.dtype), zero_point

    with _replaced(inside, "quantize_weight_by_dtype", quantise):
        yield


@contextlib.contextmanager
def _gates_in_float() -> Iterator[None]:
    """Keep coremltools from quantising what comes out of a layer and is multiplied, as in ``x * sigmoid(x / r)``.

    The range of such a tensor is that of the gate, which clips; times the gate, what was clipped would be far off.
    """
    from coremltools.converters.mil.mil.passes.defs import optimize_activation_quantization as passes

    suffix: Any = passes.insert_suffix_quantize_dequantize_pair
    theirs = suffix._try_apply_transform

    def apply(self: Any, last: Any, *rest: Any) -> bool:
        readers = {reader.op_type for reader in last.outputs[0].child_ops}
        return "mul" not in readers and bool(theirs(self, last, *rest))

    with _replaced(suffix, "_try_apply_transform", apply):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, ours: Any) -> Iterator[None]:
    """Replace a function of coremltools temporarily."""
    theirs = getattr(owner, name)
    setattr(owner, name, ours)
    try:
        yield
    finally:
        setattr(owner, name, theirs)


def _tidy(package: Path) -> None:
    """Make the package reproducible: no debug files, no random identifiers, fixed permissions."""
    (package / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    path = package / MANIFEST
    manifest = json.loads(path.read_bytes())
    entries, root = {}, ""
    for key, entry in sorted(manifest["itemInfoEntries"].items(), key=lambda item: str(item[1]["path"])):
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"]))
        entries[name] = entry
        root = name if key == manifest["rootModelIdentifier"] else root
    manifest.update(itemInfoEntries=entries, rootModelIdentifier=root)
    path.write_text(json.dumps(manifest, indent=4) + "\n", encoding="utf-8")
    for file in package.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)


def _entry(job: Job, package: Path) -> Graph:
    """The manifest entry, with names and shapes as they are in the file.

    Raises:
        ConversionError: an output has another shape than in the program.
    """
    try:
        program = read_program(package)
    except EngineError as error:
        raise ConversionError(f"coremltools wrote what cannot be read: {error}") from error
    made = {port.name: port.shape for operation in program.operations for port in operation.outputs}
    outputs = []
    for wanted, name in zip(job.contract.outputs, program.outputs, strict=True):
        shape = tuple(job.shapes[wanted.name])
        if made.get(name) != shape:
            raise ConversionError(
                f"Core ML: output {wanted.name!r} should have shape {shape}, the file has {made.get(name)} as {name}"
            )
        outputs.append(Tensor(name=name, shape=shape))
    (entry,) = program.inputs
    files = sorted(path.relative_to(job.out).as_posix() for path in package.rglob("*") if path.is_file())
    files.sort(key=lambda name: not name.endswith(MANIFEST))
    kinds = Counter(one.kind for one in program.operations if one.kind != "const")
    return Graph(
        files=tuple(files),
        inputs=(Tensor(name=entry.name, shape=tuple(size or 0 for size in entry.shape)),),
        outputs=tuple(outputs),
        report={"opset": program.opset, **dict(sorted(kinds.items()))},
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what coremltools prints, logs and draws; errors come as exceptions."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), quietly():
        yield
