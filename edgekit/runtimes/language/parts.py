"""The opened parts of a vision-language bundle: networks, language model, tokenizer."""

from __future__ import annotations

import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError, UsageError
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.bundle.manifest import Contract, Graph, Language
from edgekit.runtimes.engines import Network, SessionOptions, device_of, open_language, open_network
from edgekit.runtimes.language.codec import TextCodec
from edgekit.runtimes.language.graph import LanguageGraph
from edgekit.runtimes.language.text import Tokenizer

NETWORKS = {"generation": ("vision", "qformer"), "retrieval": ("vision", "qformer", "text", "match")}
LANGUAGE_GRAPHS = {"opt": ("language",), "t5": ("encoder", "decoder"), "retrieval": ()}
TOKENIZER, EMBEDDINGS = "tokenizer.json", "embeddings.npy"


@dataclass(frozen=True)
class Parts:
    """The opened parts of a bundle. ``graph`` and ``embeddings`` (vocabulary, width) are None for retrieval."""

    language: Language
    networks: Mapping[str, Network]
    tokenizer: TextCodec
    graph: LanguageGraph | None = None
    embeddings: NDArray[Any] | None = None


def kind_of(language: Language) -> str:
    """``generation`` or ``retrieval``."""
    return "retrieval" if language.family == "retrieval" else "generation"


def open_parts(
    bundle: Bundle,
    options: SessionOptions,
    devices: Mapping[str, str] | None = None,
    only: Literal["", "networks", "language"] = "",
) -> Parts:
    """Open the graphs of a bundle, each with its own engine.

    Args:
        bundle: of several parts.
        options: how to open the files. In a bundle of several engines, those that do not have the device take their
            first.
        devices: of each engine, in place of that of the options.
        only: what is opened: the networks, or the language model with its tokens; all where nothing is said.

    Raises:
        BundleError: parts are missing or damaged.
        EngineError: the engine is missing, or refuses a file.
        UsageError: not a vision-language bundle, or a device or thread count that the engine does not have.
    """
    manifest = bundle.manifest
    language = language_of(manifest.contract)
    graphs = {graph.name: graph for graph in manifest.graphs}
    kind, spoken = kind_of(language), LANGUAGE_GRAPHS[language.family]
    for name in (*NETWORKS[kind], *spoken):
        if name not in graphs:
            raise BundleError(f"{bundle.path}: no graph {name!r}, only {', '.join(graphs)}; convert the model again")
    path = _guarded(bundle, TOKENIZER)
    isolation = options.isolation
    tokenizer = Tokenizer(path) if isolation is None else isolation.open_tokenizer(path)
    settings = _settings(manifest.engines, options, devices or {})
    engines = {name: manifest.engine_of(graphs[name]) for name in NETWORKS[kind] if only != "language"}
    networks = {
        name: open_network(engine, bundle.path, graphs[name], settings[engine]) for name, engine in engines.items()
    }
    if not spoken or only == "networks":
        return Parts(language, networks, tokenizer)
    embeddings = read_embeddings(_guarded(bundle, EMBEDDINGS), language)
    parts = {name: graphs[name] for name in spoken}
    _check_vocabulary(bundle, parts[spoken[-1]], language, len(embeddings))
    engine, *others = sorted({manifest.engine_of(part) for part in parts.values()})
    if others:
        named = " and ".join((engine, *others))
        raise BundleError(f"{bundle.path}: {' and '.join(parts)} are for {named}, not for one; convert the model again")
    graph = open_language(engine, bundle.path, parts, language, embeddings, settings[engine])
    return Parts(language, networks, tokenizer, graph, embeddings)


def _settings(engines: Sequence[str], options: SessionOptions, devices: Mapping[str, str]) -> dict[str, SessionOptions]:
    """How each engine opens its files; a device that no engine has is refused by the first that is asked."""
    chosen = {name: device_of(name, options.device) for name in engines}
    if not any(chosen.values()):
        chosen = dict.fromkeys(engines, options.device)
    return {name: replace(options, device=devices.get(name, chosen[name])) for name in engines}


def _check_vocabulary(bundle: Bundle, graph: Graph, language: Language, rows: int) -> None:
    """Refuse embeddings that lack a token which the language model can give, or which the contract names."""
    logits = [tensor.shape[-1] for tensor in graph.outputs if tensor.name == "logits" and tensor.shape]
    if len(logits) != 1 or logits[0] < 1:
        raise BundleError(f"{bundle.path}: graph {graph.name!r} has no logits of a vocabulary; convert the model again")
    tokens = {"the vocabulary's last": logits[0] - 1, "pad": language.pad, "start": language.start}
    for name, token in tokens.items():
        if token >= rows:
            raise BundleError(
                f"{bundle.path}: {name} token is {token}, {EMBEDDINGS} has {rows} rows; convert the model again"
            )


def language_of(contract: Contract) -> Language:
    """The language part of a contract.

    Raises:
        UsageError: it has none.
    """
    if contract.language is None:
        raise UsageError(f"a {contract.task} bundle is no vision-language model; open it with edgekit.load")
    return contract.language


def _guarded(bundle: Bundle, name: str) -> Path:
    if all(file.path != name for file in bundle.manifest.files):
        raise BundleError(f"{bundle.path}: no {name!r} that the manifest lists; convert the model again")
    return bundle.file(name)


def read_embeddings(path: Path, language: Language) -> NDArray[Any]:
    """The rows of all tokens, memory-mapped: of 50 000 rows a prompt needs ten.

    Raises:
        BundleError: not an array of that kind.
    """
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, tokenize.TokenError) as error:  # its header's
        raise BundleError(f"{path}: cannot be read as an array: {error}; convert the model again") from error
    if found.ndim != 2 or found.dtype not in (np.float16, np.float32) or found.shape[1] != language.width:
        raise BundleError(
            f"{path}: {found.dtype} {found.shape} is not (vocabulary, {language.width}) of float16 or float32; "
            "convert the model again"
        )
    return found
