"""The ways of running a BLIP-2 that are compared; each is opened and measured in a process of its own.

python benchmarks/blip2_subjects.py NAME CHECKPOINT WORK THREADS TOKENS    (one line of JSON; see blip2.py)
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from blip2_checkpoint import QUERIES, VOCABULARY, WIDTH
from blip2_memory import peak

PROMPT = 8
"""Text tokens behind those of the image."""

WARM_UP, REPEATS = 1, 3


class Subject(Protocol):
    """A BLIP-2 that is open.

    Attributes:
        streamed: bytes of weights that a token needs.
        size: bytes of its files.
    """

    streamed: int
    size: int

    def vision(self, pixels: np.ndarray) -> Any:
        """(1, 3, 224, 224) to image embeddings, as its engine keeps them."""

    def queries(self, image: Any) -> np.ndarray:
        """Image embeddings to (1, 32, width)."""

    def start(self, embeddings: np.ndarray) -> np.ndarray:
        """Read a prompt (1, tokens, width); logits (1, vocabulary) of the next token."""

    def step(self, token: int) -> np.ndarray:
        """Append one token."""


class HuggingFace:
    """transformers in eager mode, as it comes: no torch.compile; its own attention and dynamic cache."""

    def __init__(self, checkpoint: Path, threads: int, dtype: str) -> None:
        import torch

        from edgekit.sources._pretrained import import_transformers

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        kind = import_transformers(checkpoint).Blip2ForConditionalGeneration
        self._model = kind.from_pretrained(checkpoint, dtype=getattr(torch, dtype), local_files_only=True).eval()
        self._torch, self._dtype = torch, getattr(torch, dtype)
        language = self._model.language_model
        read = [*language.model.decoder.layers.parameters(), language.lm_head.weight]
        self.streamed = sum(one.numel() * one.element_size() for one in read)
        self.size = sum(path.stat().st_size for path in checkpoint.iterdir())

    def vision(self, pixels: np.ndarray) -> Any:
        return self._model.vision_model(self._torch.from_numpy(pixels).to(self._dtype)).last_hidden_state

    def queries(self, image: Any) -> np.ndarray:
        seen = self._model.qformer(query_embeds=self._model.query_tokens, encoder_hidden_states=image)
        return self._model.language_projection(seen.last_hidden_state).float().numpy()

    def start(self, embeddings: np.ndarray) -> np.ndarray:
        self._length, self._cache = 0, None
        return self._run(self._torch.from_numpy(embeddings).to(self._dtype))

    def step(self, token: int) -> np.ndarray:
        return self._run(self._model.get_input_embeddings()(self._torch.tensor([[token]])))

    def _run(self, embeddings: Any) -> np.ndarray:
        self._length += embeddings.shape[1]
        mask = self._torch.ones(1, self._length, dtype=self._torch.long)
        made = self._model.language_model(
            inputs_embeds=embeddings, attention_mask=mask, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        self._cache = made.past_key_values
        return made.logits[:, -1].float().numpy()


class Edgekit:
    """What a bundle runs with: the graphs of one target in one preset of precisions."""

    def __init__(self, checkpoint: Path, work: Path, threads: int, target: str, preset: str) -> None:
        from edgekit import converters
        from edgekit.runtimes.bundle.manifest import Language
        from edgekit.runtimes.engines import SessionOptions, open_language, open_network

        folder = work / f"{target}-{preset}"
        graphs = {name: converted(checkpoint, work, target, preset, name) for name in ("vision", "qformer", "language")}
        engine = converters.target(target).engine
        options = SessionOptions(threads=threads)
        cached = heads(checkpoint)
        language = Language(
            family="opt", queries=QUERIES, image=0, pad=1, eos=(2,), width=WIDTH,
            layers=cached.layers, heads=cached.count, head_size=cached.size,
        )  # fmt: skip
        self._vision, self._qformer = (
            open_network(engine, folder, graphs[one], options) for one in ("vision", "qformer")
        )
        table = np.load(words := embeddings(checkpoint, work), mmap_mode="r")
        self._language = open_language(engine, folder, {"language": graphs["language"]}, language, table, options)
        self.streamed = bytes_per_token([folder / name for name in graphs["language"].files], preset)
        files = [words, *(folder / name for graph in graphs.values() for name in graph.files)]
        self.size = sum(path.stat().st_size for path in files)

    def vision(self, pixels: np.ndarray) -> Any:
        return self._vision.run({"pixel_values": pixels})["image_embeds"]

    def queries(self, image: Any) -> np.ndarray:
        return self._qformer.run({"image_embeds": image})["language_inputs"]

    def start(self, embeddings: np.ndarray) -> np.ndarray:
        return self._language.start(embeddings, np.ones(embeddings.shape[:2], np.int64))

    def step(self, token: int) -> np.ndarray:
        return self._language.step(np.array([token]))


class Plain:
    """An engine by hand on float32 graphs, the cache given and taken by name with every call.

    The graph of the language model has the past as inputs and the longer past as outputs, as exporters write it; it is
    written by edgekit without its fused attention and without its state.
    """

    def __init__(self, checkpoint: Path, work: Path, threads: int, engine: str) -> None:
        folder = work / "onnx-fp32"
        files = [folder / converted(checkpoint, work, "onnx", "fp32", one).files[0] for one in ("vision", "qformer")]
        files.append(work / "plain" / converted(checkpoint, work, "plain", "fp32", "language").files[0])
        opened = onnxruntime_by_hand if engine == "onnxruntime" else openvino_by_hand
        self._vision, self._qformer, self._language = (opened(path, threads) for path in files)
        table = np.load(embeddings(checkpoint, work), mmap_mode="r")
        self._table, self._heads = table, heads(checkpoint)
        self.streamed = bytes_per_token([work / "plain" / "language.onnx.data"], "fp32")
        self.size = sum(file.stat().st_size for path in files for file in (path, path.with_name(f"{path.name}.data")))

    def vision(self, pixels: np.ndarray) -> Any:
        return self._vision({"pixel_values": pixels})["image_embeds"]

    def queries(self, image: Any) -> np.ndarray:
        return self._qformer({"image_embeds": image})["language_inputs"]

    def start(self, embeddings: np.ndarray) -> np.ndarray:
        empty = np.zeros((1, self._heads.count, 0, self._heads.size), np.float32)
        self._length = 0
        self._past = {f"past.{n}.{what}": empty for n in range(self._heads.layers) for what in ("key", "value")}
        return self._run(embeddings)

    def step(self, token: int) -> np.ndarray:
        return self._run(np.asarray(self._table[[token]], np.float32)[:, None])

    def _run(self, embeddings: np.ndarray) -> np.ndarray:
        places = np.arange(self._length, self._length + embeddings.shape[1])[None]
        self._length += embeddings.shape[1]
        mask = np.ones((1, self._length), np.int64)
        rest = {"position_ids": places, "attention_mask": mask, "beam_idx": np.zeros(1, np.int32)}
        made = self._language({"inputs_embeds": embeddings, **rest, **self._past})
        self._past = {name: made[name.replace("past.", "present.")] for name in self._past}
        return made["logits"]


Call = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def onnxruntime_by_hand(path: Path, threads: int) -> Call:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def openvino_by_hand(path: Path, threads: int) -> Call:
    from edgekit.runtimes.engines.openvino.session import import_openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = import_openvino().Core().compile_model(path, "CPU", settings)
    return lambda feeds: {name: np.array(array) for port, array in model(feeds).items() for name in port.names}


def heads(checkpoint: Path) -> Any:
    """The shape of the language model's attention."""
    from edgekit.graph.blip2.blip2 import Blip2

    return Blip2(checkpoint).language.heads


def embeddings(checkpoint: Path, work: Path) -> Path:
    """The token embeddings as a bundle has them, made once."""
    from edgekit.graph.blip2.blip2 import Blip2

    path = work / "embeddings.npy"
    if not path.is_file():
        np.save(path, Blip2(checkpoint).embeddings().astype(np.float16))
    return path


def bytes_per_token(files: list[Path], preset: str) -> int:
    """All weights of the language graph but the table of positions, of which one row is read."""
    return sum(path.stat().st_size for path in files) - 2050 * WIDTH * (2 if preset == "fp16" else 4)


def converted(checkpoint: Path, work: Path, target: str, preset: str, name: str) -> Any:
    """One graph as `edgekit convert` writes it, made once; target "plain" is float32 with the cache as tensors."""
    from edgekit import converters, registry
    from edgekit.converters import WrittenJob
    from edgekit.graph.blip2.blip2 import Blip2, WrittenPart
    from edgekit.graph.blip2.cache import GrownCache
    from edgekit.graph.blip2.precision import forms, read_precisions
    from edgekit.runtimes.bundle.manifest import Graph

    folder = work / ("plain" if target == "plain" else f"{target}-{preset}")
    described = folder / f"{name}.json"
    if described.is_file():
        return msgspec.json.decode(described.read_bytes(), type=Graph)
    (temporary := folder / "work").mkdir(parents=True, exist_ok=True)
    source, precision = Blip2(checkpoint), read_precisions([preset])[0].of(name)
    ranges = calibrated(source, work) if name == "vision" and precision.word == "int8" else None
    written = forms(name, precision, ranges)
    if target == "plain":
        graph = source.write(name, folder, written, partial(GrownCache, mask=True))
    else:
        options = converters.target(target).options()
        job = WrittenJob(part=WrittenPart(source, name, written), out=folder, work=temporary, options=options)
        graph = registry.module(converters.__name__, target).convert_written(job, lambda *_: None)
    shutil.rmtree(temporary)
    described.write_bytes(msgspec.json.encode(graph))
    return graph


def calibrated(source: Any, work: Path) -> Any:
    """Ranges of vision's activations on noise, which is as good as photographs to weights that are noise."""
    from edgekit.calibration.samples import Samples
    from edgekit.conversion.ranges import observe
    from edgekit.runtimes.bundle.manifest import ImageRule

    path = work / "noise.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8))
    return observe(source, Samples(path, ImageRule(size=(224, 224), resize="stretch", std=(0.3, 0.3, 0.3))))


SUBJECTS: dict[str, Callable[[Path, Path, int], Subject]] = {
    "hf-fp32": lambda checkpoint, work, threads: HuggingFace(checkpoint, threads, "float32"),
    "hf-bf16": lambda checkpoint, work, threads: HuggingFace(checkpoint, threads, "bfloat16"),
    **{
        f"plain-{engine}-fp32": partial(Plain, engine=engine) for engine in ("onnxruntime", "openvino")
    },
    **{
        f"edgekit-{target}-{preset}": partial(Edgekit, target=target, preset=preset)
        for preset in ("fp32", "int8", "int4")
        for target in ("onnx", "openvino")
    },
    **{
        f"edgekit-{target}-{preset}": partial(Edgekit, target=target, preset=preset)
        for preset in ("int8", "int4")
        for target in ("litert", "mnn", "ncnn", "executorch")
    },
}  # fmt: skip


def measure(subject: Subject, tokens: int) -> dict[str, Any]:
    """Medians in ms, of one image and one prompt; and memory."""
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((1, 3, 224, 224), np.float32)
    words = rng.standard_normal((1, PROMPT, WIDTH), np.float32) * np.float32(0.02)
    spent: dict[str, list[float]] = {"vision": [], "prefill": [], "first": [], "step": []}
    for _ in range(WARM_UP + REPEATS):
        begin = time.perf_counter()
        image = subject.vision(pixels)
        seen = time.perf_counter()
        prompt = np.concatenate([subject.queries(image), words], axis=1)
        reading = time.perf_counter()
        int(subject.start(prompt).argmax())
        first = time.perf_counter()
        spent["vision"].append(seen - begin)
        spent["prefill"].append(first - reading)
        spent["first"].append(first - begin)
        for number in range(tokens):  # the same tokens for all, so that their last logits can be compared
            start = time.perf_counter()
            logits = subject.step(100 + 37 * number)
            int(logits.argmax())
            spent["step"].append(time.perf_counter() - start)
    assert logits.shape == (1, VOCABULARY)
    warm = {"step": WARM_UP * tokens}
    found = {name: 1e3 * float(np.median(times[warm.get(name, WARM_UP) :])) for name, times in spent.items()}
    found["best_step"] = 1e3 * min(spent["step"])
    memory = {"streamed": subject.streamed, "size": subject.size, "peak": peak()}
    return {**found, **memory, "logits": logits[0, ::50].tolist()}


def bandwidth(threads: int) -> dict[str, float]:
    """Bytes of memory that so many threads read in a second: summing 1 GB in pieces too large for any cache."""
    import torch

    torch.set_num_threads(threads)
    pieces = torch.ones(2**28).chunk(8)
    found = []
    for _ in range(8):
        for piece in pieces:
            start = time.perf_counter()
            piece.sum()
            found.append(piece.nbytes / (time.perf_counter() - start))
    return {"bandwidth": float(np.median(found)), "best_bandwidth": max(found)}


def main() -> None:
    """Measure one subject, or the memory, and print one line."""
    name, checkpoint, work, threads, tokens = sys.argv[1:]
    if name == "bandwidth":
        print(json.dumps(bandwidth(int(threads))))
        return
    begin = time.perf_counter()
    subject = SUBJECTS[name](Path(checkpoint), Path(work), int(threads))
    load = 1e3 * (time.perf_counter() - begin)
    if int(tokens):  # 0 only makes the files
        print(json.dumps({"load": load, **measure(subject, int(tokens))}))


if __name__ == "__main__":
    main()
