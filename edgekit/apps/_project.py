"""HOST: what every kind of app does: refuse what its platform cannot run, find its files, write a folder or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import ToolchainError, UsageError
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.bundle.manifest import MANIFEST

# fmt: off
DECODERS = (
    "anchor_free", "anchors", "centernet", "classes", "decoded", "distances", "fastestdet", "grid", "heatmaps",
    "keypoints", "movenet", "queries", "semantic", "simcc", "ssd", "vector",
)
# fmt: on
"""Decoders of the runtimes for the web, Swift and Kotlin; a test holds them against the sources of each."""

PLATFORMS = Path(__file__).parents[2] / "platforms"
"""The runtimes, where edgekit runs from its repository."""


@dataclass(frozen=True)
class Platform:
    """The bundles that a platform's runtime opens, in the words of its refusals."""

    runtime: str
    """``web runtime``"""
    engines: tuple[str, ...]
    """Engines in manifests whose files it runs."""
    runs: str
    """``a browser runs ONNX files``"""
    convert: str
    """``--target web``"""
    decoders: str
    """The folder that a decoder is added to."""
    speaks: tuple[str, ...]
    """Engines in manifests whose vision-language models its app has a screen for."""

    def refuse(self, bundle: Bundle) -> None:
        """Refuse a bundle that an app of this platform could not run.

        Raises:
            UsageError: says which engine, task or decoder it has, and what to do.
        """
        contract = bundle.manifest.contract
        engines = sorted(set(bundle.manifest.engines) - set(self.engines))
        if engines:
            raise UsageError(
                f"{bundle.path}: is for {', '.join(engines)}, and {self.runs}; convert the model with {self.convert}"
            )
        silent = sorted(set(bundle.manifest.engines) - set(self.speaks))
        if contract.language is not None and silent:
            raise UsageError(
                f"{bundle.path}: is a vision-language model for {', '.join(silent)}, and an app of the {self.runtime} "
                f"has a screen for those of {', '.join(self.speaks)}; convert the model with --target onnx (or web)"
            )
        inputs = [tensor for graph in bundle.manifest.graphs for tensor in graph.inputs]
        if any(tensor.name.startswith("past.") and tensor.dtype == "int8" for tensor in inputs):
            raise UsageError(
                f"{bundle.path}: keeps its cache in int8, and the {self.runtime} holds one of floats; convert the "
                "model without kv_cache=int8"
            )
        if contract.language is None and contract.decoder.name not in DECODERS:
            raise UsageError(
                f"{bundle.path}: its decoder {contract.decoder.name!r} is not one of the {self.runtime}'s: "
                f"{', '.join(DECODERS)}; add it to {self.decoders}"
            )


@contextmanager
def written(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` in the end; what fails leaves nothing.

    Raises:
        UsageError: ``out`` exists, or cannot be written.
    """
    target = Path(out)
    if target.exists() or target.is_symlink():
        raise UsageError(
            f"{target}: is there already, and may have changes of yours; delete it, or name another folder with -o"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield unfinished
            unfinished.chmod(0o755)  # a temporary folder is its owner's alone
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror  # of a tree: a list
        raise UsageError(f"{target}: cannot be written ({why}); name another folder with -o") from error


def copy_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy what the manifest names, and nothing else that may lie in a bundle's folder."""
    for name in (MANIFEST, *(file.path for file in bundle.manifest.files)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.file(name), folder / name)


def fill(file: Path, words: Mapping[str, str]) -> None:
    """Replace words in a file of text."""
    text = file.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(word, value)
    file.write_text(text, encoding="utf-8")


def shipped(packaged: str, place: str) -> Path | None:
    """A file or folder of the runtimes: where a wheel has it, else ``place`` in the repository's ``platforms``."""
    places = (Path(__file__).parent / packaged, PLATFORMS / place)
    return next((found for found in places if found.exists()), None)


def part(packaged: str, place: str, kind: str) -> Path:
    """As `shipped`, of what every installation has.

    Raises:
        ToolchainError: this installation lacks it.
    """
    found = shipped(packaged, place)
    if found is None:
        raise ToolchainError(
            f"the files of edgekit app {kind} are missing from this installation; install edgekit again"
        )
    return found
