"""Building a TensorRT engine from an ONNX file with TensorRT's Python API, 8.6 and newer.

Where the release has strongly typed networks (9.1 and newer) the types in the file are the types of the engine. Before,
and on a DLA, TensorRT chooses among the precisions that it is allowed: float16 for an fp16 file, int8 for a QDQ file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray

from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph, Record
from edgekit.structures import from_json

SETTINGS = "build.json"


class Shapes(msgspec.Struct, frozen=True, array_like=True):
    """The shapes of an input: the smallest, the usual and the largest."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]

    def take(self, shape: Sequence[int]) -> bool:
        """Whether a shape lies between them."""
        ends = zip(self.least, shape, self.most, strict=True) if len(shape) == len(self.least) else [(1, 0, 0)]
        return all(low <= size <= high for low, size, high in ends)


class BuildSettings(Record, frozen=True, kw_only=True):
    """How the engine of a bundle is built; a file of the bundle, beside the ONNX file.

    ``workspace_megabytes`` bounds the scratch memory that a layer may use, 0 leaves it at the device's memory.
    ``optimisation_level`` is TensorRT's own, 0 (quick to build) to 5 (fast to run). ``floats`` is what an int8 file
    computes in outside of its integers. ``profiles`` are the input shapes (NCHW) of a file that takes several: the
    engine has kernels chosen for each, on one set of weights. ``shapes`` are the profiles of a graph with named inputs
    of free shapes.
    """

    precision: Literal["fp32", "fp16", "int8", "int4"]
    workspace_megabytes: int = 0
    optimisation_level: int = 3
    floats: Literal["fp32", "fp16"] = "fp32"
    profiles: tuple[tuple[int, int, int, int], ...] | msgspec.UnsetType = msgspec.UNSET
    shapes: tuple[Mapping[str, Shapes], ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def arithmetic(self) -> str:
        """The arithmetic of an engine."""
        floats = {"fp32": "float32", "fp16": "float16"}
        if self.precision == "int8" and self.shapes:
            return f"int8 where the file has Q/DQ, weights of 8 bits with {floats[self.floats]} elsewhere"
        if self.precision == "int8":
            return f"int8 where the file has Q/DQ, {floats[self.floats]} elsewhere"
        if self.precision == "int4":
            return f"weights of 4 bits in blocks, {floats[self.floats]} arithmetic"
        if self.shapes and self.precision != self.floats:
            return f"weights stored in {floats[self.precision]}, {floats[self.floats]} arithmetic"
        return floats[self.precision]


@dataclass(frozen=True)
class Built:
    """An engine as TensorRT serialises it, the timing cache after the build, and layers per compute unit."""

    plan: bytes
    timing: bytes
    operators: dict[str, int]


def read_settings(folder: Path, graph: Graph) -> BuildSettings:
    """The settings of a graph of a bundle.

    Raises:
        EngineError: the graph has no such file, or it is not valid.
    """
    if len(graph.files) < 2:
        raise EngineError(f"a TensorRT graph has an ONNX file and {SETTINGS}, not {list(graph.files)}; convert again")
    path = folder / graph.files[-1]
    try:
        return from_json(path.read_bytes(), BuildSettings)
    except (msgspec.DecodeError, OSError) as error:
        raise EngineError(f"{path}: not the settings of a build ({error}); convert again") from error


def most_rows(settings: BuildSettings) -> int:
    """How many rows an engine with named inputs takes at once."""
    profiles = settings.shapes or ()
    return max(shapes.most[0] for profile in profiles for name, shapes in profile.items() if name != "distances")


def profile_of(settings: BuildSettings, name: str, feeds: Mapping[str, NDArray[Any]]) -> int:
    """The number of the optimisation profile that takes these inputs.

    Raises:
        EngineError: none does, with the input that is outside of all of them.
    """
    profiles = settings.shapes or ()
    for number, profile in enumerate(profiles):
        if set(feeds) == set(profile) and all(profile[one].take(array.shape) for one, array in feeds.items()):
            return number
    known = profiles[-1] if profiles else {}
    if set(feeds) != set(known):
        raise EngineError(f"{name} takes {', '.join(known)}, not {', '.join(feeds)}")
    outside = (one for one, array in feeds.items() if not any(profile[one].take(array.shape) for profile in profiles))
    worst = next(outside, next(iter(feeds)))
    raise EngineError(
        f"{name}: input {worst!r} of shape {list(feeds[worst].shape)} is outside of what the engine is built for (at "
        f"most {list(known[worst].most)}); shorten the text, or convert with --option tensorrt.tokens=N for more"
    )


def build(model: Path, settings: BuildSettings, device: str, timing: bytes, *, strict: bool = False) -> Built:
    """Build an engine on this device; it takes from seconds to many minutes.

    Args:
        model: the ONNX file.
        settings: from the bundle.
        device: ``gpu``, ``dla0`` or ``dla1``.
        timing: an earlier timing cache of this device and version, or nothing.
        strict: refuse layers that a DLA would leave to the GPU.

    Raises:
        EngineError: TensorRT cannot parse or build it, or the device lacks what it needs.
    """
    import tensorrt as trt

    logger = _Log(trt)
    builder = trt.Builder(logger.logger)
    on_dla = device != "gpu"
    _refuse(settings, builder, device)
    network = builder.create_network(_network_flags(trt, on_dla))
    parser = trt.OnnxParser(network, logger.logger)
    if not parser.parse_from_file(str(model)):
        raise EngineError(f"{model}: {_parse_error(trt, parser, settings)}")
    config = builder.create_builder_config()
    if settings.workspace_megabytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_megabytes << 20)
    config.builder_optimization_level = settings.optimisation_level
    _set_precision(trt, config, settings, weakly=on_dla or not _strongly_typed(trt))
    for inputs in settings.shapes or ():
        profile = builder.create_optimization_profile()
        for name, shapes in inputs.items():
            profile.set_shape(name, shapes.least, shapes.usual, shapes.most)
        config.add_optimization_profile(profile)
    for shape in settings.profiles or ():
        profile = builder.create_optimization_profile()
        profile.set_shape(network.get_input(0).name, shape, shape, shape)
        config.add_optimization_profile(profile)
    if on_dla:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = int(device.removeprefix("dla"))
        if not strict:
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    cache = config.create_timing_cache(timing)
    config.set_timing_cache(cache, False)
    operators = _placed(config, network, device)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{model}: TensorRT {trt.__version__} cannot build it for {device!r}: {logger.last()}")
    return Built(bytes(plan), bytes(config.get_timing_cache().serialize()), operators)


def _refuse(settings: BuildSettings, builder: Any, device: str) -> None:
    """Refuse settings that are known not to work on a DLA."""
    if device == "gpu":
        return
    if int(device.removeprefix("dla")) >= builder.num_DLA_cores:
        raise EngineError(f"this device has {builder.num_DLA_cores} DLA core(s), no {device!r}; use unit='gpu'")
    if settings.precision == "int8":
        raise EngineError("a DLA takes no QuantizeLinear, which an int8 bundle is made of; convert with fp16 for it")
    if settings.precision == "fp32":
        raise EngineError("a DLA does not compute in float32; convert with fp16 for it")


def _strongly_typed(trt: Any) -> bool:
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _network_flags(trt: Any, on_dla: bool) -> int:
    """Flags of the network, by what this TensorRT has: the explicit batch became the only way in 10."""
    kinds, flags = trt.NetworkDefinitionCreationFlag, 0
    if hasattr(kinds, "EXPLICIT_BATCH"):
        flags |= 1 << int(kinds.EXPLICIT_BATCH)
    if hasattr(kinds, "STRONGLY_TYPED") and not on_dla:
        flags |= 1 << int(kinds.STRONGLY_TYPED)
    return flags


def _set_precision(trt: Any, config: Any, settings: BuildSettings, *, weakly: bool) -> None:
    # On by default, and 10 bits of precision are not the float32 that the bundle was proven with.
    config.clear_flag(trt.BuilderFlag.TF32)
    if weakly:
        flag = {"fp16": "FP16", "int8": "INT8"}.get(settings.precision, "")
        if hasattr(trt.BuilderFlag, flag):
            config.set_flag(getattr(trt.BuilderFlag, flag))


def _placed(config: Any, network: Any, device: str) -> dict[str, int]:
    """Layers per compute unit, before TensorRT fuses them."""
    if device == "gpu":
        return {"gpu": network.num_layers}
    taken = sum(bool(config.can_run_on_DLA(network.get_layer(index))) for index in range(network.num_layers))
    counts = {device: taken, "gpu": network.num_layers - taken}
    return {unit: count for unit, count in counts.items() if count}


def _parse_error(trt: Any, parser: Any, settings: BuildSettings) -> str:
    found = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)) or "no reason given"
    advice = ""
    if settings.precision == "int8" and int(trt.__version__.partition(".")[0]) < 10:
        advice = " (TensorRT 8 and 9 may want --option tensorrt.weights=float32; convert again with it)"
    return f"TensorRT {trt.__version__} cannot parse it: {found}{advice}"


class _Log:
    """TensorRT's log, whose last error has the reason of a failed build."""

    def __init__(self, trt: Any) -> None:
        errors: list[str] = []
        self._errors = errors

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    errors.append(message.strip())

        self.logger = Logger()

    def last(self) -> str:
        """The last error."""
        return self._errors[-1] if self._errors else "no reason given"
