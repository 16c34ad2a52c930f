"""edgekit's methods for weights of 4 bits beside NNCF's, on one graph, in one run.

    python benchmarks/blip2_nncf.py [FOLDER] [--group 128 --texts 40]

The language model of a BLIP-2 (without FOLDER the one of benchmarks/blip2_outliers.py) for OpenVINO, with all weights
of its linear layers in 4 bits and the head in 8, both symmetric in blocks. Calibration and comparison read different
scenes; what is compared are the tokens that the float32 graph writes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import blip2_outliers
import numpy as np

from edgekit import converters, registry
from edgekit.arrays import Floats, Ints
from edgekit.calibration.samples import Samples
from edgekit.calibration.split import store
from edgekit.conversion.layer_inputs import observe_inputs, read_inputs
from edgekit.converters import WrittenJob
from edgekit.evaluation.texts import TextTally
from edgekit.graph.blip2.blip2 import Blip2, Forms, WrittenPart
from edgekit.graph.blip2.contract import TOKENIZER, contract_of
from edgekit.graph.blip2.fitted import fit
from edgekit.graph.blip2.forms import Float32
from edgekit.graph.blip2.precision import forms, read_part
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines import SessionOptions, open_language
from edgekit.runtimes.inputs.media import references
from edgekit.runtimes.language import LanguageGraph
from edgekit.runtimes.language.prompts import PromptWriter
from edgekit.runtimes.language.text import Tokenizer
from edgekit.shapes.talk import FIRST_EVALUATION_SEED
from edgekit.shapes.talk_dataset import write_talk
from edgekit.sources.blip2.reference import load_model

ROOT = Path(__file__).parents[1]
TOKENS = 12
PROMPTS = ("a photo of", "Question: how many objects are there? Answer:", "Question: what color is it? Answer:")


class Model:
    """A source and its contract."""

    def __init__(self, folder: Path) -> None:
        self.source = Blip2(folder)
        self.contract = contract_of(self.source)
        if self.contract.language is None:
            raise SystemExit(f"{folder}: no language model")
        self.language, self.embeddings = self.contract.language, self.source.embeddings()
        self._model = load_model(self.source)
        self._writer = PromptWriter(self.language, Tokenizer(folder / TOKENIZER, source=True), self.embeddings)

    def given(self, images: Samples) -> Iterator[tuple[Floats, Ints]]:
        """Embeddings and mask of each image with one of the prompts."""
        import torch

        model = self._model
        for number, pixels in enumerate(images):
            with torch.no_grad():
                image = model.vision_model(torch.from_numpy(pixels)).last_hidden_state
                seen = model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=image).last_hidden_state
                queries = model.language_projection(seen)[0].numpy()
            ready = self._writer([queries], [PROMPTS[number % len(PROMPTS)]], TOKENS)
            yield ready.embeddings, ready.mask


def written(model: Model, source: Blip2, form: Forms, out: Path) -> Graph:
    """The language model for OpenVINO."""
    (out / "work").mkdir(parents=True)
    job = WrittenJob(
        part=WrittenPart(source, "language", form), out=out, work=out / "work",
        options=converters.target("openvino").options(),
    )  # fmt: skip
    graph: Graph = registry.module(converters.__name__, "openvino").convert_written(job, lambda text, share: None)
    return graph


def opened(model: Model, folder: Path, graph: Graph) -> LanguageGraph:
    """That graph, ready to run."""
    given = {"language": graph}
    return open_language("openvino", folder, given, model.language, model.embeddings, SessionOptions(threads=1))


def followed(graph: LanguageGraph, given: tuple[Floats, Ints], tokens: Sequence[int] | None) -> Floats:
    """Logits (tokens, vocabulary) along a text, or along the greedy one."""
    logits = [np.array(graph.start(*given)[0])]
    for place in range(TOKENS - 1):
        token = tokens[place] if tokens is not None else int(logits[-1].argmax())
        logits.append(np.array(graph.step(np.array([token]))[0]))
    return np.stack(logits)


def of_nncf(folder: Path, given: Sequence[tuple[Floats, Ints]], group: int, out: Path, **method: Any) -> None:
    """A float graph compressed by NNCF; the cache begins empty with each item, which is a prompt with its image."""
    import nncf
    import openvino

    read = openvino.Core().read_model(folder / "language.xml")
    feeds = []
    for embeddings, mask in given:
        places = np.maximum(mask.cumsum(1) - 1, 0)
        feeds.append(
            {"inputs_embeds": embeddings.astype(np.float32), "attention_mask": mask, "position_ids": places,
             "beam_idx": np.arange(len(mask), dtype=np.int32)}
        )  # fmt: skip
    made = nncf.compress_weights(
        read, mode=nncf.CompressWeightsMode.INT4_SYM, ratio=1.0, group_size=group, dataset=nncf.Dataset(feeds),
        subset_size=len(feeds), **method,
    )  # fmt: skip
    out.mkdir()
    openvino.save_model(made, out / "language.xml", compress_to_fp16=False)


def main() -> None:
    """Compare the methods that both have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--group", type=int, default=128, choices=(32, 64, 128))
    parser.add_argument("--texts", type=int, default=40)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = asked.folder or blip2_outliers.write(ROOT / "examples" / "blip2" / "opt", root / "outliers")
        model = Model(folder)
        sets = []
        for number in range(2):
            scenes = write_talk(root / f"scenes-{number}", asked.texts, FIRST_EVALUATION_SEED + 60_000 * number).parent
            sets.append(store(references(str(scenes)), model.contract.image, root / f"{number}.npy"))
        observe_inputs(
            model.source, model.contract, sets[1], PROMPTS, ("language",), root / "inputs", lambda text, share: None
        )
        inputs, calibration = read_inputs(root / "inputs"), list(model.given(sets[1]))
        texts = list(model.given(sets[0]))
        plain = written(model, model.source, Forms(Float32(), Float32()), root / "fp32")
        exact = opened(model, root / "fp32", plain)
        wanted = [followed(exact, one, None) for one in texts]
        graphs: dict[str, tuple[Path, Graph]] = {}
        for method in ("", "-awq", "-gptq", "-awq-gptq"):
            part = read_part(f"int4-g{asked.group}{method}")
            source = fit(model.source, "language", part, inputs, "lowest").source if method else model.source
            out = root / f"edgekit{method}"
            graph = written(model, source, forms("language", part, None), out)
            graphs[f"edgekit {method[1:] or 'nearest'}"] = (out, graph)
        for method in ({}, {"awq": True}, {"scale_estimation": True}, {"gptq": True}, {"awq": True, "gptq": True}):
            title = f"NNCF {' + '.join(method) or 'nearest'}"
            try:
                of_nncf(root / "fp32", calibration, asked.group, root / title, **method)
            except RuntimeError as error:  # its GPTQ takes no product with a transposed weight
                sys.stdout.write(f"{title:28} refused: {error}\n")
                continue
            graphs[title] = (root / title, plain)
        for title, (out, graph) in graphs.items():
            tally, spoken = TextTally("tokens"), opened(model, out, graph)
            for one, logits in zip(texts, wanted, strict=True):
                tokens = logits.argmax(1)
                tally.add_positions(logits, followed(spoken, one, tokens.tolist()), tokens)
            agreement = tally.agreement()
            size = sum(file.stat().st_size for file in out.glob("language.*")) / 1e6
            sys.stdout.write(
                f"{title:28} matched {agreement.matched:.1%} {agreement.counted}, drift {agreement.score_drift:.4f}, "
                f"{size:.2f} MB\n"
            )


if __name__ == "__main__":
    main()
