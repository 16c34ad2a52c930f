"""A language model's cache in 8 bits and in floats: tokens that stay the source's in long texts, and memory.

    python benchmarks/blip2_cache.py [--target onnx openvino]
    python benchmarks/blip2_cache.py --memory FOLDER

The first converts the OPT of examples/blip2, and the same with large channels (benchmarks/blip2_outliers.py), in
float32 with each cache, and prints the proof: a few images, one prompt, as many tokens as the model can see. The second
measures a graph of published width (2560, two layers, weights of 8 bits) with 16 texts of 260 tokens: by how much
memory of the process grows, and milliseconds for a token. The folder keeps that model (about 1 GB).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import blip2_checkpoint
import blip2_outliers
import numpy as np

from edgekit.conversion.convert import Conversion, convert
from edgekit.shapes.talk import FIRST_EVALUATION_SEED
from edgekit.shapes.talk_dataset import write_talk

TARGETS, CACHES = ("onnx", "openvino"), ("fp32", "int8")
ROWS, TOKENS, STEPS = 16, 250, 10


def proofs(targets: list[str]) -> None:
    """Print the proof of every model, target and cache."""
    source = Path(__file__).parents[1] / "examples" / "blip2" / "opt"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photos = write_talk(root / "calibration", 40, FIRST_EVALUATION_SEED + 50_000).parent
        proof = write_talk(root / "proof", 3, FIRST_EVALUATION_SEED).parent
        (root / "prompts.txt").write_text("a photo of\n")
        models = {"opt": source, "outliers": blip2_outliers.write(source, root / "outliers")}
        for name, model in models.items():
            for target in targets:
                for cache in CACHES:
                    given = Conversion(
                        source=str(model), targets=(target,), precisions=("fp32",), out=root / "out", data=str(photos),
                        proof_data=str(proof), prompts=str(root / "prompts.txt"), gated=False, name=f"{name}-{cache}",
                        options={target: {"kv_cache": cache}}, threads=1,
                    )  # fmt: skip
                    (outcome,) = convert(given)
                    if outcome.evidence is None or outcome.evidence.texts is None:
                        raise outcome.error or SystemExit(f"{name} {target} {cache}: nothing was compared")
                    texts, told = outcome.evidence.texts, "passed" if outcome.evidence.passed else "outside its gate"
                    print(
                        f"{name} {target} {cache}: matched {texts.matched:.1%} of {texts.positions}, drift "
                        f"{texts.score_drift:.4f}, {told}",
                        flush=True,
                    )


def written(folder: Path, target: str, cache: str) -> Path:
    """The graph of a model of published width; scales of its cache are made up."""
    from edgekit import converters, registry
    from edgekit.converters import CacheOptions, WrittenJob
    from edgekit.graph.blip2.blip2 import Blip2, WrittenPart
    from edgekit.graph.blip2.cache import past
    from edgekit.graph.blip2.precision import PartPrecision, forms

    out = folder / f"{target}-{cache}"
    if (out / "graph.json").is_file():
        return out
    source = Blip2(folder / "model")
    heads = source.language.heads
    shape = (1, heads.count, 1, heads.size)
    scales = {
        past(number, what): np.full(shape, 0.05, np.float32)
        for number in range(heads.layers)
        for what in ("key", "value")
    }
    made = {"scales": scales} if cache == "int8" else {}
    part = WrittenPart(source, "language", forms("language", PartPrecision("int8"), None), **made)
    (out / "work").mkdir(parents=True, exist_ok=True)
    job = WrittenJob(part=part, out=out, work=out / "work", options=CacheOptions(kv_cache=cache))
    graph = registry.module(converters.__name__, target).convert_written(job, lambda text, share: None)
    import msgspec

    (out / "graph.json").write_bytes(msgspec.json.encode(graph))
    return out


def child(folder: Path, target: str, cache: str) -> None:
    """Print growth of this process's own memory in bytes, and milliseconds for a token."""
    import msgspec

    from edgekit import converters
    from edgekit.graph.blip2.blip2 import Blip2
    from edgekit.graph.blip2.contract import contract_of
    from edgekit.runtimes.bundle.manifest import Graph
    from edgekit.runtimes.engines import SessionOptions, open_language

    language = contract_of(Blip2(folder / "model")).language
    if language is None:
        raise SystemExit("no language model")
    out = folder / f"{target}-{cache}"
    graph = msgspec.json.decode((out / "graph.json").read_bytes(), type=Graph)
    embeddings = np.random.default_rng(0).standard_normal((64, language.width)).astype(np.float32)
    options = SessionOptions(threads=1)
    spoken = open_language(converters.target(target).engine, out, {"language": graph}, language, embeddings, options)
    spoken.start(embeddings[np.arange(TOKENS) % 64][None], np.ones((1, TOKENS), np.int64))
    before = own()
    spoken.select(np.zeros(ROWS, np.int64))
    times = []
    for step in range(STEPS):
        began = time.perf_counter()
        spoken.step(np.full(ROWS, step))
        times.append(1000 * (time.perf_counter() - began))
    print(json.dumps({"bytes": own() - before, "ms": float(np.median(times[2:]))}))


def own() -> int:
    """Memory of this process that is not pages of files, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def memory(folder: Path, targets: list[str]) -> None:
    """Print memory and time of each target and cache, each in a process of its own."""
    if not (folder / "model").is_dir():
        blip2_checkpoint.write(folder / "model", blip2_checkpoint.Depths(2, 1, 2))
    for target in targets:
        for cache in CACHES:
            written(folder, target, cache)
            command = [sys.executable, __file__, "--child", str(folder), target, cache]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"{target} {cache}: {found['bytes'] / 1e6:.1f} MB more, {found['ms']:.1f} ms", flush=True)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--memory", type=Path, help="folder for the model of published width")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(Path(given.child[0]), *given.child[1:])
    elif given.memory:
        memory(given.memory, given.target)
    else:
        proofs(given.target)


if __name__ == "__main__":
    main()
