"""Open any bundle: what its contract says it is."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, overload

from edgekit.errors import UsageError
from edgekit.runtimes import model
from edgekit.runtimes.bundle.folder import Bundle, open_bundle
from edgekit.runtimes.engines import engine
from edgekit.runtimes.model import Model
from edgekit.runtimes.pool import ModelPool, threads_each
from edgekit.runtimes.results import Detections, Result

if TYPE_CHECKING:
    from edgekit.runtimes.language.vision_language import VisionLanguage

AnyResult = TypeVar("AnyResult", bound=Result)
StrPath = str | os.PathLike[str]


@overload
def load(
    path: StrPath | Bundle,
    *,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    device: str | None = None,
) -> Model[Detections]: ...
@overload
def load(
    path: StrPath | Bundle,
    kind: type[VisionLanguage],
    *,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    device: str | None = None,
) -> VisionLanguage: ...
@overload
def load(
    path: StrPath | Bundle,
    kind: type[AnyResult],
    *,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    device: str | None = None,
) -> Model[AnyResult]: ...
@overload
def load(
    path: StrPath | Bundle,
    *,
    workers: int,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    device: str | None = None,
) -> ModelPool[Detections]: ...
@overload
def load(
    path: StrPath | Bundle,
    kind: type[AnyResult],
    *,
    workers: int,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    device: str | None = None,
) -> ModelPool[AnyResult]: ...


def load(
    path: StrPath | Bundle,
    kind: type[Any] | None = None,
    *,
    workers: int | None = None,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    device: str | None = None,
) -> Any:
    """Open a bundle: an `edgekit.VisionLanguage` where the contract has a language, else an `edgekit.Model`.

    A model serves one thread at a time. With ``workers`` it is an `edgekit.ModelPool`, which any thread may call.

    ::

        model = edgekit.load("out/detector-onnx-int8")
        blip2 = edgekit.load("out/opt-onnx-int4", edgekit.VisionLanguage)
        pose = edgekit.load("out/pose-litert-fp16", edgekit.Poses)
        pool = edgekit.load("out/detector-onnx-int8", workers=4)

    Args:
        path: the folder that ``edgekit convert`` wrote.
        kind: what is expected: the type of the results, or `edgekit.VisionLanguage`. It is checked, and type checkers
            know by it what comes out; without it they take the bundle for a detector, and nothing is checked.
        workers: how many sessions a pool has, each with a copy of the weights; None for a single model.
        unit: one of the engine's units, such as ``cpu``, ``cuda``, ``gpu`` or ``npu``; empty for its first.
        threads: CPU threads for the engine, 0 for its own choice; of a pool for each session, 0 shares the cores.
        strict: make it an error when an operator leaves that unit.
        warm_up: runs on an empty image before returning.
        device: the former name of ``unit``.

    Raises:
        BundleError: damaged, altered or too new.
        EngineError: the engine is missing or refuses the file.
        UsageError: a unit or thread count that the engine does not have, a bundle of another kind, or workers below 1
            or for a vision-language bundle.
    """
    if device is not None:
        warnings.warn("load(device=...) is called load(unit=...) now", DeprecationWarning, stacklevel=2)
        if unit:
            raise UsageError(f"unit={unit!r} and device={device!r} are one setting: give unit alone")
        unit = device
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    if bundle.manifest.contract.language is not None:
        from edgekit.runtimes.language.vision_language import VisionLanguage, open_vision_language

        _check(bundle, kind, VisionLanguage)
        if workers is not None:
            raise UsageError(
                f"{bundle.path} is a vision-language model, which has no pool of workers={workers}: open one in each "
                "thread, without workers"
            )
        return open_vision_language(bundle, threads=threads, unit=unit, strict=strict, warm_up=warm_up)
    if workers is not None:
        if workers < 1:
            raise UsageError(f"workers must be 1 or more, not {workers}")
        if not threads and engine(bundle.manifest.engine).own_threads:
            threads = threads_each(workers)
    models = []
    for _ in range(workers or 1):
        models.append(model.load(bundle, threads=threads, unit=unit, strict=strict, warm_up=warm_up))
        _check(bundle, kind, models[0].task.gives)
    return models[0] if workers is None else ModelPool(models)


def _check(bundle: Bundle, wanted: type[Any] | None, given: type[Any]) -> None:
    """Refuse a bundle of another kind than the caller expects.

    Raises:
        UsageError: what it gives is not ``wanted``.
    """
    if wanted is not None and not issubclass(given, wanted):
        raise UsageError(
            f"{bundle.path} gives {given.__name__} (its task is {bundle.manifest.contract.task}), not "
            f"{wanted.__name__}: load(path, edgekit.{given.__name__})"
        )
