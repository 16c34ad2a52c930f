"""Open any bundle, as the kind of model that its contract names."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, overload

from edgekit.errors import UsageError
from edgekit.runtimes import model
from edgekit.runtimes.bundle.folder import Bundle, Verify, open_bundle
from edgekit.runtimes.engines import Isolation, engine, isolation
from edgekit.runtimes.model import InputSize, Model
from edgekit.runtimes.pool import ModelPool, threads_each
from edgekit.runtimes.results import Detections, Result

if TYPE_CHECKING:
    from edgekit.runtimes.language.vision_language import VisionLanguage

AnyResult = TypeVar("AnyResult", bound=Result)
StrPath = str | os.PathLike[str]

SECONDS = 60.0
"""Default timeout in seconds of an isolated bundle, for opening and for a run."""


@overload
def load(
    path: StrPath | Bundle,
    *,
    isolated: bool = False,
    timeout: float | None = None,
    verify: Verify | None = None,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    size: InputSize = None,
    device: str | None = None,
) -> Model[Detections]: ...
@overload
def load(
    path: StrPath | Bundle,
    kind: type[VisionLanguage],
    *,
    isolated: bool = False,
    timeout: float | None = None,
    verify: Verify | None = None,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    size: InputSize = None,
    device: str | None = None,
) -> VisionLanguage: ...
@overload
def load(
    path: StrPath | Bundle,
    kind: type[AnyResult],
    *,
    isolated: bool = False,
    timeout: float | None = None,
    verify: Verify | None = None,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    size: InputSize = None,
    device: str | None = None,
) -> Model[AnyResult]: ...
@overload
def load(
    path: StrPath | Bundle,
    *,
    workers: int,
    isolated: bool = False,
    timeout: float | None = None,
    verify: Verify | None = None,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    size: InputSize = None,
    device: str | None = None,
) -> ModelPool[Detections]: ...
@overload
def load(
    path: StrPath | Bundle,
    kind: type[AnyResult],
    *,
    workers: int,
    isolated: bool = False,
    timeout: float | None = None,
    verify: Verify | None = None,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    size: InputSize = None,
    device: str | None = None,
) -> ModelPool[AnyResult]: ...


def load(
    path: StrPath | Bundle,
    kind: type[Any] | None = None,
    *,
    workers: int | None = None,
    isolated: bool = False,
    timeout: float | None = None,
    verify: Verify | None = None,
    unit: str = "",
    threads: int = 0,
    strict: bool = False,
    warm_up: int = 1,
    size: InputSize = None,
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
        isolated: open and run its files in a child process, so that one that crashes the engine, or never ends, is an
            `EngineError` and not the end of this process. For bundles of strangers; it costs the copies of a run's
            inputs and outputs. It does not keep a file that takes over the engine from reading what you can read.
        timeout: seconds that an isolated bundle may take to open and for each run; 60 when left out.
        verify: is given the folder and the bytes of the manifest before anything is believed, and raises to refuse
            them: the place for a check of who made the bundle. See `edgekit.runtimes.bundle.folder.Verify`.
        unit: one of the engine's units, such as ``cpu``, ``cuda``, ``gpu`` or ``npu``; empty for its first.
        threads: CPU threads for the engine, 0 for its own choice; of a pool for each session, 0 shares the cores.
        strict: make it an error when an operator leaves that unit.
        warm_up: runs on an empty image before returning.
        size: of a bundle with several input sizes, the one to use, (height, width) or one number for both; or
            ``"nearest"``, for each image the smallest that shows it in full. The bundle's first when left out.
        device: the former name of ``unit``.

    Raises:
        BundleError: damaged, altered or too new.
        EngineError: the engine is missing or refuses the file; of an isolated bundle also, that the child process
            crashed or took too long.
        UsageError: a unit or thread count that the engine does not have, a bundle of another kind, or workers below 1
            or for a vision-language bundle, a timeout that is not positive or of a bundle that is not isolated, or
            verify for a bundle that is open already.
    """
    if device is not None:
        warnings.warn("load(device=...) is called load(unit=...) now", DeprecationWarning, stacklevel=2)
        if unit:
            raise UsageError(f"unit={unit!r} and device={device!r} are one setting: give unit alone")
        unit = device
    if timeout is not None and not (isolated and timeout > 0):
        raise UsageError(f"timeout={timeout:g}: it is the seconds, above 0, of isolated=True")
    if verify is not None and isinstance(path, Bundle):
        raise UsageError("verify= goes with a path: this bundle is open already, by open_bundle(path, verify=...)")
    bundle = path if isinstance(path, Bundle) else open_bundle(path, verify=verify)

    def started() -> Isolation | None:
        return isolation(bundle.path.name, timeout or SECONDS) if isolated else None

    if bundle.manifest.contract.language is not None:
        from edgekit.runtimes.language.vision_language import VisionLanguage, open_vision_language

        _check(bundle, kind, VisionLanguage)
        _refuse_for_language(bundle, workers, size)
        return open_vision_language(
            bundle, threads=threads, unit=unit, strict=strict, warm_up=warm_up, isolation=started()
        )
    if workers is not None:
        if workers < 1:
            raise UsageError(f"workers must be 1 or more, not {workers}")
        if not threads and engine(bundle.manifest.engine).own_threads:
            threads = threads_each(workers)
    models = []
    for _ in range(workers or 1):
        models.append(
            model.load(
                bundle, threads=threads, unit=unit, strict=strict, warm_up=warm_up, isolation=started(), size=size
            )
        )
        _check(bundle, kind, models[0].task.gives)
    return models[0] if workers is None else ModelPool(models)


def _refuse_for_language(bundle: Bundle, workers: int | None, size: InputSize) -> None:
    """Refuse what a vision-language model does not have.

    Raises:
        UsageError: a pool, or a choice of input sizes.
    """
    if size is not None:
        raise UsageError(f"{bundle.path} is a vision-language model, which has one input size: leave out size")
    if workers is not None:
        raise UsageError(
            f"{bundle.path} is a vision-language model, which has no pool of workers={workers}: open one in each "
            "thread, without workers"
        )


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
