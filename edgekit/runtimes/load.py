"""Open any bundle: what its contract says it is."""

from __future__ import annotations

import os
from typing import Any

from edgekit.runtimes import model
from edgekit.runtimes.bundle.folder import Bundle, open_bundle


def load(
    path: str | os.PathLike[str] | Bundle, *, threads: int = 0, device: str = "", strict: bool = False, warm_up: int = 1
) -> Any:
    """Open a bundle: a `edgekit.VisionLanguage` where the contract has a language, else a `edgekit.Model`.

    Args:
        path: the folder that ``edgekit convert`` wrote.
        threads: CPU threads for the engine, 0 for its own choice.
        device: one of the engine's devices, empty for its first.
        strict: make it an error when an operator leaves that device.
        warm_up: runs on an empty image before returning.

    Raises:
        BundleError: damaged, altered or too new.
        EngineError: the engine is missing or refuses the file.
        UsageError: a device or thread count that the engine does not have.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    if bundle.manifest.contract.language is None:
        return model.load(bundle, threads=threads, device=device, strict=strict, warm_up=warm_up)
    from edgekit.runtimes.language.vision_language import open_vision_language

    return open_vision_language(bundle, threads=threads, device=device, strict=strict, warm_up=warm_up)
