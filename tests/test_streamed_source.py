"""A source whose weights stay in its files gives what it gives from memory, with one module's weights at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
pytest.importorskip("transformers", reason="needs transformers, which is compared with")
safetensors = pytest.importorskip("safetensors.torch", reason="needs the extra 'convert'")

import tiny_blip2
from blip2_writing import pixels

from edgekit.conversion import source_texts
from edgekit.conversion.source_texts import answer, match_all
from edgekit.conversion.workspace import Workspace
from edgekit.errors import SourceError
from edgekit.graph.blip2.blip2 import Blip2
from edgekit.graph.blip2.contract import contract_of
from edgekit.sources import _streamed
from edgekit.sources.blip2 import reference
from edgekit.sources.blip2.reference import load_model, load_tokenizer

PROMPTS = ("a photo of", "Question: how many? Answer:")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    kinds = ("opt", "t5", "retrieval")
    return {kind: getattr(tiny_blip2, kind)(root / kind) for kind in kinds}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model counts as a large one, and every tensor of two dimensions as one."""
    monkeypatch.setattr(reference, "LARGE", 0)
    monkeypatch.setattr(_streamed, "RESIDENT", 129)


def results(folder: Path, out: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What is stored of a source as reference, by the name of the file."""
    source, workspace = Blip2(folder), Workspace(out)
    images = [pixels(1, seed) for seed in range(3)]
    run, shares = match_all if source.retrieval else answer, list[float]()
    run(source, contract_of(source), images, PROMPTS, workspace, 1, lambda _, share: shares.append(share))  # type: ignore[arg-type]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.6 < shares[-1] < 1
    return {path.name: np.load(path) for path in sorted(out.rglob("*.npy"))}


@pytest.mark.parametrize("kind", ["opt", "t5", "retrieval"])
def test_results_are_the_same_from_files_and_from_memory(
    kind: str, folders: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for name in ("memory", "files"):
        (tmp_path / name).mkdir()
    whole = results(folders[kind], tmp_path / "memory")
    request.getfixturevalue("large")
    streamed = results(folders[kind], tmp_path / "files")
    assert list(whole) == list(streamed)
    assert len(whole) >= 5
    for name, array in whole.items():  # where weights lie in memory may change the order of a sum
        tolerance = 1e-5 * float(np.abs(array).max()) if array.dtype.kind == "f" else 0
        np.testing.assert_allclose(streamed[name], array, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_the_same_numbers(
    dtype: torch.dtype, folders: dict[str, Path], tmp_path: Path, large: None
) -> None:
    folder = shutil.copytree(folders["opt"], tmp_path / "opt")
    stored = {name: one.to(dtype) for name, one in safetensors.load_file(folder / "model.safetensors").items()}
    safetensors.save_file(stored, folder / "model.safetensors")
    model, seen = load_model(Blip2(folder)), list[str]()

    def compare(module: torch.nn.Module, name: str) -> None:
        assert module.weight.dtype == torch.float32
        torch.testing.assert_close(module.weight, stored[name].float(), rtol=0, atol=0)
        seen.append(name)

    for name, module in model.language_model.named_modules():
        if (whole := f"language_model.{name}.weight") in stored:
            module.register_forward_pre_hook(lambda module, _, name=whole: compare(module, name))
    with torch.no_grad():
        model.language_model(input_ids=torch.tensor([[3, 4, 5]]))
    assert len(seen) > 10


def test_weights_are_there_for_one_module_at_a_time(folders: dict[str, Path], large: None) -> None:
    model, seen = load_model(Blip2(folders["opt"])), []

    def loaded() -> int:
        """Large tensors with memory of their own."""
        return sum(one.numel() >= 129 and one.untyped_storage().nbytes() > 4 for one in model.parameters())

    def count(*_: object) -> None:
        seen.append(loaded())

    for module in model.language_model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(count)
    with torch.no_grad():
        model.language_model(input_ids=torch.tensor([[3, 4, 5]]))
    assert len(seen) > 10
    assert set(seen) == {1}
    assert loaded() == 0


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_texts_are_those_of_transformers_one_at_a_time(
    kind: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of several lengths run together, and an answer is cut from the text that may not end."""
    monkeypatch.setattr(source_texts, "ROWS", 4)
    found = results(folders[kind], tmp_path)
    source = Blip2(folders[kind])
    language = contract_of(source).language
    assert language is not None
    model, tokenizer = load_model(source), load_tokenizer(source)
    begin_of = {"opt": lambda ids: ids.shape[1], "t5": lambda ids: 1}[kind]
    answers, ended = found[Workspace(tmp_path).answers.name], 0
    for row, own in enumerate(answers):
        ids = torch.tensor([[language.image] * language.queries + tokenizer(PROMPTS[row % 2]).input_ids])
        given = {"pixel_values": torch.from_numpy(pixels(1, row // 2)), "input_ids": ids}
        free = model.generate(**given, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20)
        expected = free[0, begin_of(ids) :].numpy()
        np.testing.assert_array_equal(own[own >= 0], expected)
        ended += len(expected) < 20
    assert ended  # or nothing was cut


def test_large_models_are_told_by_their_size(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source = Blip2(folders["opt"])
    monkeypatch.setattr(reference, "LARGE", reference.parameter_bytes(source))
    assert not reference.is_large(source)
    monkeypatch.setattr(reference, "LARGE", reference.parameter_bytes(source) - 1)
    assert reference.is_large(source)


def test_files_that_do_not_fit_are_refused(folders: dict[str, Path], tmp_path: Path, large: None) -> None:
    folder = shutil.copytree(folders["opt"], tmp_path / "opt")
    whole = safetensors.load_file(folder / "model.safetensors")
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"

    def refusal(tensors: dict[str, Any]) -> str:
        safetensors.save_file(tensors, folder / "model.safetensors")
        with pytest.raises(SourceError) as refused:
            load_model(Blip2(folder))
        return str(refused.value)

    assert f"1 missing ({name})" in refusal({key: value for key, value in whole.items() if key != name})
    assert "1 unexpected (more)" in refusal({**whole, "more": torch.zeros(2)})
    assert f"of another shape ({name} [48, 31] for [48, 32])" in refusal({**whole, name: torch.zeros(48, 31)})


def test_a_missing_shard_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["opt"], tmp_path / "opt")
    names = list(safetensors.load_file(folder / "model.safetensors"))
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(SourceError, match=r"model-00002-of-00002\.safetensors: no such file"):
        Blip2(folder)
