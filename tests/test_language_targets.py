"""Language models on every target with a cache of the host, by its own engine or emulator, against transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, whose generate is compared with")

import tiny_blip2
from blip2_writing import Written, pixels, write_graphs
from language_cases import CONFIGURATIONS, References, differences

from edgekit import converters

TARGETS = ("mnn", "litert", "ncnn", "coreml", "tensorrt", "web", "executorch")
SLOW = ("executorch",)
"""Targets whose toolchain takes many seconds even for a tiny model."""

SCORES = {"mnn": 1e-2}
"""How far sums of log-probabilities may be off: MNN approximates GELU and softmax. A tie may fall otherwise too."""

every_target = pytest.mark.parametrize("target", TARGETS)


@cache
def made(root: Path, kind: str, target: str, precision: str = "fp32") -> Written:
    """The graphs of a tiny model for a target, written once."""
    missing = converters.target(target).missing
    if missing:
        pytest.skip(f"{target}: {missing}")
    return write_graphs(source(root, kind), target, root / f"{kind}-{target}-{precision}", precision)


@cache
def source(root: Path, kind: str) -> Path:
    folder: Path = getattr(tiny_blip2, kind)(root / kind)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("targets")


@pytest.fixture(scope="module")
def references(root: Path, shared_folder: Path) -> dict[str, References]:
    return {kind: References(source(root, kind), shared_folder) for kind in ("opt", "t5")}


def wrong(root: Path, kind: str, target: str, references: Mapping[str, References], seeds: range) -> list[str]:
    """The random configurations whose tokens or scores are not transformers'."""
    written = made(root, kind, target)
    return differences(written, written.spoken(), references[kind], seeds, SCORES.get(target, 1e-4))


@pytest.mark.parametrize("target", [target for target in TARGETS if target not in SLOW])
def test_opt_generates_what_transformers_does(target: str, root: Path, references: dict[str, References]) -> None:
    assert not wrong(root, "opt", target, references, range(1 if target == "web" else 2))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["opt", "t5"])
@every_target
def test_random_configurations(kind: str, target: str, root: Path, references: dict[str, References]) -> None:
    found = wrong(root, kind, target, references, range(CONFIGURATIONS))
    assert len(found) <= (6 if target in SCORES else 0), "\n".join(found)


@pytest.mark.nightly
@every_target
def test_retrieval_models(target: str, root: Path) -> None:
    """Texts of several lengths, several images: as the source."""
    written, reference = made(root, "retrieval", target), made(root, "retrieval", "onnx")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 60, (3, 7))
    mask = np.ones_like(ids)
    mask[1, 5:] = mask[2, 3:] = 0
    words: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    images = {"pixel_values": pixels(3)}
    embeds = np.zeros(0)
    for graph, feeds in (("vision", images), ("qformer", None), ("text", words), ("match", words)):
        if graph != "vision" and graph != "text":
            feeds = {**(feeds or {}), "image_embeds": np.array(embeds)}
        expected, found = (one.network(graph).run(feeds) for one in (reference, written))
        embeds = expected.get("image_embeds", embeds)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, atol=0.02, err_msg=f"{graph} {name}")


@pytest.mark.nightly
@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.9999), ("int8", 0.998), ("int4", 0.9)])
@every_target
def test_precisions(precision: str, cosine: float, target: str, root: Path) -> None:
    """The logits of a prompt and three tokens, and the size of the file."""
    from edgekit.graph.blip2.blip2 import Forms
    from edgekit.graph.blip2.forms import Blocks

    if precision not in converters.target(target).part_precisions:
        pytest.skip(f"{target} has no {precision} for parts")
    blocks = {"int8": Forms(Blocks(8), Blocks(8)), "int4": Forms(Blocks(4), Blocks(8))}.get(precision)
    exact = made(root, "opt", target)
    folder = root / f"opt-{target}-{precision}"
    written = write_graphs(exact.source.folder, target, folder, precision, blocks)
    rng = np.random.default_rng(0)
    embeddings = exact.source.embeddings()[rng.integers(5, 90, (2, 6))]
    mask = np.ones((2, 6), np.int64)
    both = (exact, written)
    graphs = [each.spoken() for each in both]
    for step in range(4):
        pair = [
            np.array(graph.start(embeddings, mask) if not step else graph.step(np.array([5, 9]))).ravel()
            for graph in graphs
        ]
        assert np.dot(*pair) / np.prod([np.linalg.norm(each) for each in pair]) > cosine
    sizes = [sum((each.folder / name).stat().st_size for name in each.graphs["language"].files) for each in both]
    assert sizes[1] < sizes[0]
