"""Graphs of tiny BLIP-2 models, written and opened as a conversion does it, without a command line around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tiny_blip2
from tiny_transformers import package

from edgekit import converters, registry
from edgekit.arrays import Floats
from edgekit.converters import CacheOptions, WrittenJob
from edgekit.emulators import proof_device
from edgekit.graph.blip2.blip2 import CACHED, Blip2, Forms, WrittenPart
from edgekit.graph.blip2.contract import contract_of
from edgekit.graph.blip2.precision import PartPrecision, forms
from edgekit.runtimes.bundle.manifest import Graph, Language
from edgekit.runtimes.engines import Network, SessionOptions, open_language, open_network
from edgekit.runtimes.language import LanguageGraph

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}
ONE_THREAD = SessionOptions(threads=1)


@dataclass(frozen=True)
class Written:
    """Graphs of one source in one precision for one target, on disk."""

    source: Blip2
    target: str
    folder: Path
    graphs: dict[str, Graph]
    opened: dict[str, Network] = field(default_factory=dict)

    @property
    def language(self) -> Language:
        language = contract_of(self.source).language
        assert language is not None
        return language

    @property
    def engine(self) -> str:
        return converters.target(self.target).engine

    @property
    def options(self) -> SessionOptions:
        """One thread, and what checks the target's files here."""
        return dataclasses.replace(ONE_THREAD, device=proof_device(self.engine))

    def network(self, name: str) -> Network:
        """Opened once."""
        if name not in self.opened:
            self.opened[name] = open_network(self.engine, self.folder, self.graphs[name], self.options)
        return self.opened[name]

    def spoken(self) -> LanguageGraph:
        """The language model with its cache."""
        graphs = {name: graph for name, graph in self.graphs.items() if name in ("language", "encoder", "decoder")}
        embeddings = self.source.embeddings()
        return open_language(self.engine, self.folder, graphs, self.language, embeddings, self.options)


def write_graphs(
    folder: Path,
    target: str,
    out: Path,
    precision: str = "fp32",
    given: Forms | None = None,
    scales: Mapping[str, Floats] | None = None,
    only: Sequence[str] = (),
) -> Written:
    """Write every graph of a folder for a target, or only some; with scales its cache in 8 bits."""
    source, graphs = Blip2(folder), {}
    converter = registry.module(converters.__name__, target)
    for path in (out, out / "work"):
        path.mkdir(parents=True, exist_ok=True)
    options = converters.target(target).options() if scales is None else CacheOptions(kv_cache="int8")
    for name in only or source.graphs:
        form = given or forms(name, PartPrecision(precision), None)
        part = WrittenPart(source, name, form, (scales or {}) if name in CACHED else {})
        job = WrittenJob(part=part, out=out, work=out / "work", options=options)
        graphs[name] = converter.convert_written(job, lambda text, share: None)
    return Written(source, target, out, graphs)


def torch_model(folder: Path) -> Any:
    """The same model in transformers."""
    library, kind = package(), Blip2(folder).architecture
    return getattr(library, kind).from_pretrained(folder).eval().requires_grad_(False)


def pixels(rows: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Noise in input size."""
    size = tiny_blip2.SIZE
    return np.random.default_rng(seed).standard_normal((rows, 3, size, size)).astype(np.float32)


def edited(folder: Path, out: Path, name: str = "config.json", **changes: Any) -> Path:
    """A copy of a folder (by links) with changes to one of its JSON files."""
    out.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name != name:
            (out / path.name).symlink_to(path)
    document = msgspec.json.decode((folder / name).read_bytes())
    (out / name).write_bytes(msgspec.json.encode({**document, **changes}))
    return out
