"""The network of label maps that edgekit ships: its output, its weights, and what it sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import SourceError
from edgekit.shapes import write_label_maps
from edgekit.shapes.trained import semantic

pytest.importorskip("torch", reason="the networks are torch modules (extra 'convert')")

import torch

from edgekit.evaluation.labelled import evaluate
from edgekit.runtimes.model import Model
from edgekit.shapes import semantic as module
from edgekit.shapes.semantic import LABELS, LabelHead
from edgekit.sources.session import TorchSession


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_label_maps(tmp_path_factory.mktemp("scenes"), range(320_000, 320_012))


def score(network: torch.nn.Module, scenes: Path) -> float:
    model = Model(semantic().contract, TorchSession(network))
    (metrics,) = evaluate(lambda image: model.predict(image), scenes)
    return metrics.main


def test_it_sees_what_is_in_scenes_it_never_saw(scenes: Path) -> None:
    network = semantic()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 256, 256)).shape == (1, len(LABELS), 64, 64)
    assert score(network, scenes) > 0.7
    torch.manual_seed(0)
    network.labels = LabelHead(24, 64).eval()  # negative control: the figure is the weights', not the measure's
    assert score(network, scenes) < 0.2


def test_weights_that_are_missing_or_of_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.WEIGHTS.stat().st_size < 100_000
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "semantic.safetensors")
    with pytest.raises(SourceError, match=r"semantic\.safetensors is missing: reinstall edgekit, or train it"):
        module.trained_semantic()
    from safetensors.torch import save_file

    save_file({"planes.last.bias": torch.zeros(3)}, tmp_path / "semantic.safetensors")
    with pytest.raises(SourceError, match="does not fit the network, train it again"):
        module.trained_semantic()
