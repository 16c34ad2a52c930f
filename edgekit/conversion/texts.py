"""Compare texts: what a vision-language bundle generates, or matches, with its source.

Each graph is given the source's own inputs, so that its drift is its own; the texts come from the pixels on.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

import edgekit
from edgekit.arrays import Floats
from edgekit.calibration.samples import Samples
from edgekit.conversion import doubts
from edgekit.conversion.control import NEGATED, negated, passed_control
from edgekit.conversion.evidence import evidence_of
from edgekit.conversion.jobs import Exported, Part, Prepared, PrepareJob, Reference
from edgekit.conversion.kept_graphs import KeptGraphs, link
from edgekit.conversion.source_texts import ANSWER, Asked, answer, match_all, read_texts
from edgekit.conversion.workspace import Workspace
from edgekit.emulators import emulator, proof_device
from edgekit.errors import EngineError
from edgekit.evaluation.agreement import DriftTally
from edgekit.evaluation.texts import COSINES, GATES, TextTally, judge
from edgekit.graph.blip2.blip2 import PARTS
from edgekit.graph.blip2.precision import read_precisions, roughest
from edgekit.progress import Report
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.bundle.manifest import Evidence, Gate, Manifest, Record
from edgekit.runtimes.engines import Network, Placement, SessionOptions
from edgekit.runtimes.inputs.media import ImageReference
from edgekit.runtimes.language import GenerationOptions, generate
from edgekit.runtimes.language.distributions import log_probabilities
from edgekit.runtimes.language.parts import Parts, open_parts
from edgekit.runtimes.language.prompts import PromptWriter, padded_texts
from edgekit.sources import WrittenModel
from edgekit.sources.blip2.reference import is_large
from edgekit.structures import from_json

MOST_IMAGES = 24
"""Proof images; each is asked with every prompt."""

MOST_OF_LARGE = 6
"""Proof images where every run costs seconds: the number of tokens that are compared is the same."""


class _Results(Record, frozen=True, kw_only=True):
    """Names of the files with a source's results."""

    files: tuple[str, ...]


class TextSource:
    """A BLIP-2, run by transformers; see `edgekit.conversion.comparison.ReferenceSource`."""

    has_recipes = False
    packages: tuple[str, ...] = ("torch", "transformers", "tokenizers")

    def __init__(self, job: PrepareJob, model: WrittenModel) -> None:
        # A model of the hub has its name in its address; its folder is named after the commit.
        self.name = job.name or job.hub.partition("@")[0].rpartition("/")[2] or model.name
        self.contract, self.written = model.contract, str(model.source.folder)
        notes = (f"fetched from {job.hub}",) if job.hub else ()
        self.origin = msgspec.structs.replace(model.origin, notes=notes)
        self.parts = tuple(Part(name=name, role=PARTS[name]) for name in model.source.graphs)
        self._source, self._job = model.source, job
        self._sha256 = model.origin.sha256
        self.most_images: int | None = MOST_OF_LARGE if is_large(model.source) else MOST_IMAGES
        self._texts = read_texts(job.prompts, model.contract)

    def export(self, workspace: Workspace) -> Exported:
        """Nothing: parts are written when they are built."""
        return Exported()

    def run(self, proof: Samples, workspace: Workspace, report: Report) -> Reference:
        """Store texts, or matches, and the outputs of every part.

        Raises:
            SourceError: the source gives NaN or infinite values, or does not see the image.
        """
        entry = self._results(proof, workspace, report)
        said = doubts.of_images(proof)
        if len(proof) > 1 and not doubts.are_equal(proof):
            seen = "image_vectors" if self._source.retrieval else "language_inputs"
            kept = np.load(workspace.reference(seen), mmap_mode="r")
            other = next((one for one in kept if not np.array_equal(one, kept[0])), kept[0])
            doubts.refuse_blind((seen,), [kept[0]], [other])
            said = (*said, *self._doubts(workspace, len(proof)))
        return Reference(how="the source as it was given, in PyTorch", doubts=said, kept=entry)

    def _results(self, proof: Samples, workspace: Workspace, report: Report) -> str:
        """Write the source's results into the workspace. Those of a large source come from the cache if they are there.

        Returns:
            The cache entry of a large source, else an empty text.
        """

        def run(into: Workspace) -> None:
            called = match_all if self._source.retrieval else answer
            called(self._source, self.contract, proof, self._texts, into, self._job.threads, report)

        def make(folder: Path) -> _Results:
            folder.mkdir()
            run(Workspace(folder))
            return _Results(files=tuple(sorted(path.name for path in folder.iterdir())))

        if not (self._job.kept and is_large(self._source)):
            run(workspace)
            return ""
        depends = {
            "edgekit": edgekit.__version__,
            "versions": {name: metadata.version(name) for name in self.packages},
            "source": self._sha256,
            "proof": proof.sha256(),
            "rule": self.contract.image,
            "texts": self._texts,
        }
        files, results = KeptGraphs(Path(self._job.kept)).build(depends, _Results, make)
        for name in results.files:
            link(files / name, workspace.folder / name)
        return files.parent.name

    def doubts(self, images: Sequence[ImageReference]) -> tuple[str, ...]:
        """None: its contract is in its own files."""
        return ()

    def _doubts(self, workspace: Workspace, images: int) -> tuple[str, ...]:
        """Whether the image makes a difference to what is said."""
        if self._source.retrieval:
            best = np.load(workspace.reference("similarity"), mmap_mode="r").argmax(1)
            return ("the source finds the same text most similar to every image",) if (best == best[0]).all() else ()
        answers = np.load(workspace.answers)
        answers = answers.reshape(images, len(answers) // images, -1)
        return ("the source generates the same text for every image",) if (answers == answers[:1]).all() else ()


class TextComparison:
    """Compares bundles of several parts; see `edgekit.conversion.comparison.Comparison`."""

    takes = frozenset({"options"})
    bounds: tuple[str, ...] = ("matched", "score_drift")
    gates: Mapping[str, Gate] = GATES

    def judged_by(self, precisions: Sequence[str]) -> str:
        """The precision with the fewest bits."""
        return roughest(precisions)

    def compare(
        self,
        bundle: Bundle,
        prepared: Prepared,
        workspace: Workspace,
        gate: Gate,
        threads: int,
        report: Report,
        sheet: Path | None = None,
        batch: int = 1,
    ) -> Evidence:
        """Open every part of a bundle and compare its texts, or matches, with the source's. There is no sheet of texts.

        Raises:
            EngineError: an engine cannot open or run its part, or it gives NaN or infinite values.
            ConversionError: the negative control passes (`edgekit.conversion.control`).
        """
        manifest = bundle.manifest
        asked = from_json(workspace.questions.read_bytes(), Asked)
        devices = {name: proof_device(name) for name in manifest.engines}

        def opened(only: Literal["networks", "language"]) -> Parts:
            return open_parts(bundle, SessionOptions(threads=threads), devices, only)

        comparison = _Comparison(opened, workspace, workspace.proof_images(manifest.contract.image), asked, report)
        (comparison.generation if asked.tokens else comparison.retrieval)()
        texts, outputs = comparison.tally.agreement(), tuple(drift.drift() for drift in comparison.drifts.values())
        least = COSINES[roughest(words_of(manifest))]
        failures = judge(texts, outputs, gate, least)
        control = passed_control(NEGATED, judge(comparison.control.agreement(), (), gate, least), gate)
        placements = list(comparison.placements.values())
        placements += [
            _placed(manifest.engine_of(graph)) for graph in manifest.graphs if graph.name not in comparison.placements
        ]
        return evidence_of(
            manifest, prepared, placements, gate, "texts", failures, texts=texts, outputs=outputs, control=control
        )


def _placed(name: str) -> Placement:
    """Where an engine's language model ran, and how far that is evidence: of itself, or of its emulator."""
    other = emulator(name)
    device = proof_device(name)
    return Placement(device, word=other.word if other is not None and device == other.device else "executed")


class _Comparison:
    """The comparison of one bundle with the source's stored results.

    Images pass before the language model is opened, and the networks are closed by then: of a model that hardly fits
    into memory not all parts have to be there together.
    """

    def __init__(
        self,
        opened: Callable[[Literal["networks", "language"]], Parts],
        workspace: Workspace,
        proof: Samples,
        asked: Asked,
        report: Report,
    ) -> None:
        self._open, self._workspace, self._proof, self._asked, self._report = opened, workspace, proof, asked, report
        self._networks: Mapping[str, Network] = {}
        self.placements: dict[str, Placement] = {}
        self.tally = TextTally("tokens" if asked.tokens else "decisions")
        self.control = TextTally(self.tally.measure)
        self.drifts: dict[str, DriftTally] = {}

    def generation(self) -> None:
        """Compare logits along the source's texts, and the texts that the bundle generates itself."""
        tokens, answers = np.load(self._workspace.tokens), np.load(self._workspace.answers)
        logits, inputs = self._kept("logits"), self._kept("language_inputs")
        prompts = self._asked.prompts
        self._open_networks()
        seen = [self._image(number, pixels, "language_inputs") for number, pixels in enumerate(self._proof)]
        self._networks = {}
        _return_memory()
        speaker = _Speaker(self._open("language"))
        for row, prompt in enumerate(prompts * len(seen)):
            self._report("comparing with the source", row / (len(seen) * len(prompts)))
            number, question = divmod(row, len(prompts))
            if not (self._asked.sparing and question):
                given = speaker.followed(np.asarray(inputs[number]), prompt, tokens[row])
                self._drift("language logits", logits[row], given)
            ours = speaker.followed(seen[number], prompt, tokens[row])
            for tally, compared in self._tallies(row, ours):
                tally.add_positions(np.asarray(logits[row]), compared, tokens[row])
            wanted = answers[row][answers[row] >= 0]
            if self._asked.sparing and number:
                # Greedy decoding gives the source's text if each of its tokens is the best one after those before it.
                self.tally.add_answers([np.array_equal(ours[: len(wanted)].argmax(-1), wanted)])
            else:
                self.tally.add_answers([np.array_equal(speaker.answer(seen[number], prompt), wanted)])

    def _open_networks(self) -> Parts:
        opened = self._open("networks")
        self._networks = opened.networks
        self.placements = {name: network.placement for name, network in opened.networks.items()}
        return opened

    def retrieval(self) -> None:
        """Compare matches and similarities of every image with every text."""
        opened, texts = self._open_networks(), list(self._asked.prompts)
        networks = opened.networks
        ids, mask = padded_texts(texts, opened.tokenizer, opened.language)
        words = {"input_ids": ids, "attention_mask": mask}
        vectors = np.array(networks["text"].run(words)["text_vector"])
        for vector, reference in zip(vectors, self._kept("text_vector"), strict=True):
            self._drift("text text_vector", reference, vector)
        images, logits, similarity = (self._kept(name) for name in ("image_embeds", "logits", "similarity"))
        for number, pixels in enumerate(self._proof):
            self._report("comparing with the source", number / len(self._proof))
            own = self._image(number, pixels, "image_vectors")
            seen = [np.asarray(images[number])[None], self._image_embeds]
            given, ours = (
                networks["match"].run({"image_embeds": image.repeat(len(texts), 0), **words})["logits"].copy()
                for image in seen
            )
            self._drift("match logits", logits[number], given)
            for tally, compared in self._tallies(number, ours):
                tally.add_decisions(_matching(np.asarray(logits[number])), _matching(compared))
            best = (own @ vectors.T).max(0).argmax()
            self.tally.add_answers([bool(best == similarity[number].argmax())])

    def _tallies(self, number: int, logits: Floats) -> list[tuple[TextTally, Floats]]:
        """Where logits are added, and those of the first text, damaged, for the negative control."""
        (damaged,) = negated([logits])
        return [(self.tally, logits), (self.control, damaged)] if number == 0 else [(self.tally, logits)]

    def _image(self, number: int, pixels: Floats, projected: str) -> Floats:
        """The bundle's image features, from pixels; the drift of each graph is measured on the way."""
        networks = self._networks
        self._image_embeds = np.array(networks["vision"].run({"pixel_values": pixels})["image_embeds"])
        source = self._kept("image_embeds")[number]
        self._drift("vision image_embeds", source, self._image_embeds[0])
        given = networks["qformer"].run({"image_embeds": np.asarray(source)[None]})
        for name in ("query_output", projected):
            self._drift(f"qformer {name}", self._kept(name)[number], given[name][0])
        return np.array(networks["qformer"].run({"image_embeds": self._image_embeds})[projected][0])

    def _kept(self, name: str) -> Floats:
        found: Floats = np.load(self._workspace.reference(name), mmap_mode="r")
        return found

    def _drift(self, name: str, source: Floats, ours: Floats) -> None:
        if not np.isfinite(ours).all():
            raise EngineError(f"output {name!r} holds NaN or infinite values; convert in another precision")
        self.drifts.setdefault(name, DriftTally(name)).add(np.asarray(source), ours)


class _Speaker:
    """The language model of an opened bundle."""

    def __init__(self, opened: Parts) -> None:
        if opened.graph is None or opened.embeddings is None:
            raise TypeError("a retrieval bundle generates no text")
        self._graph, self._language = opened.graph, opened.language
        self._prompts = PromptWriter(opened.language, opened.tokenizer, opened.embeddings)

    def followed(self, image: Floats, prompt: str, tokens: NDArray[np.int64]) -> Floats:
        """Logits (positions, vocabulary) along a given text."""
        ready = self._prompts([image], [prompt], len(tokens))
        found = [np.array(self._graph.start(ready.embeddings, ready.mask)[0])]
        for token in tokens[:-1]:
            found.append(np.array(self._graph.step(np.array([token]))[0]))
        return np.stack(found)

    def answer(self, image: Floats, prompt: str) -> NDArray[np.int64]:
        """The text that the bundle generates, greedily."""
        ready = self._prompts([image], [prompt], ANSWER)
        options, eos = GenerationOptions(max_new_tokens=ANSWER), self._language.eos
        made = generate(self._graph, ready.embeddings, ready.mask, ready.ids, options, eos=eos, pad=ready.pad)
        return made.sequences[0]


def _return_memory() -> None:
    """Give memory that was freed back to the system: glibc keeps what lies between blocks in use."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _matching(logits: Floats) -> Floats:
    """Probability of a match, from logits (pairs, 2)."""
    return np.exp(log_probabilities(logits))[:, 1]


def words_of(manifest: Manifest) -> tuple[str, ...]:
    """The precision of each part, from a manifest."""
    (precision,) = read_precisions(manifest.options["precision"].split(","))
    return tuple(str(part) for part in precision.parts)
