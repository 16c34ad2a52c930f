"""Vision-language models on described images: answers, captions and retrieval, whichever model and data allow."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgekit.arrays import Floats, Image
from edgekit.errors import InputError
from edgekit.evaluation import answers, captions, recall
from edgekit.evaluation.coco import Progress
from edgekit.evaluation.comparison import Candidate, Latencies, MeasuredModel, ModelComparison, Watch, compare_by
from edgekit.evaluation.described import AskedQuestion, DescribedImage
from edgekit.evaluation.metrics import AnswerMetrics, Report
from edgekit.runtimes.inputs.media import read_image
from edgekit.runtimes.language.vision_language import VisionLanguage
from edgekit.runtimes.results import Match, Text

Item = TypeVar("Item")

TASK = "vision-language"
AT_ONCE = 8
"""Questions about one image, or texts, that run as one batch."""

LATENCIES = {
    "generation": Latencies(
        "for each text",
        "for each image",
        "median for each text, with its share of the image's vision",
        "Inference: for each text, with its share of the image's vision. Whole: for all texts about an image.",
    ),
    "retrieval": Latencies(
        "for an image's vectors",
        "with two matches",
        "median for the vectors of an image",
        "Inference: for the vectors of an image. Whole: with two matches of it.",
    ),
}


@dataclass(frozen=True)
class MeasuredTexts:
    """The measures, and medians in ms: for each text or vector, and for each image with all its questions."""

    report: Report
    inference: float
    total: float


def compare_texts(
    candidates: Sequence[Candidate], data: Sequence[DescribedImage], kind: str, watch: Watch | None = None
) -> ModelComparison:
    """Measure vision-language models of one kind (`edgekit.VisionLanguage.kind`); see `comparison.compare`.

    Raises:
        UsageError, InputError, BundleError, EngineError: as there, and as `evaluate`.
    """

    def measure(candidate: Candidate) -> MeasuredModel:
        def on_progress(done: int, images: int) -> None:
            if watch is not None:
                watch(candidate.name, done, images)

        found = evaluate(candidate.open(), data, on_progress)
        return MeasuredModel(candidate, found.report, found.inference, found.total)

    return compare_by(candidates, measure, LATENCIES[kind])


def evaluate(
    model: VisionLanguage, data: Sequence[DescribedImage], progress: Progress | None = None, *, meteor: bool = True
) -> MeasuredTexts:
    """Run a model over described images and measure it: answers first, then captions; of a retrieval model retrieval.

    Texts are generated with the bundle's own defaults. Captions continue its usual prompt, and answers its way to ask.

    Args:
        model: opened bundle, or the source (`edgekit.sources.blip2.reference`).
        data: at least one image.
        progress: see `Progress`.
        meteor: whether to compute METEOR of captions, where Java is installed; it takes the most time by far.

    Raises:
        InputError: the data has nothing that the model can be measured by, or an image cannot be read.
        UsageError: pycocoevalcap is not installed.
        EngineError: an engine failed.
    """
    if model.kind == "retrieval":
        return _retrieval(model, data, progress)
    if any(image.captions for image in data):
        captions.check_installed()
    elif not any(image.questions for image in data):
        raise InputError("no image has captions or questions to measure a generation model by")
    said = _Said()
    for done, image in enumerate(data, 1):
        said.add(model, image)
        if progress is not None:
            progress(done, len(data))
    return MeasuredTexts(said.report(meteor), statistics.median(said.each), statistics.median(said.whole))


class _Said:
    """All that a generation model said."""

    def __init__(self) -> None:
        self.asked: list[tuple[AskedQuestion, str]] = []
        self.images_asked = 0
        self.captions: list[tuple[str, tuple[str, ...]]] = []
        self.each: list[float] = []
        self.whole: list[float] = []

    def add(self, model: VisionLanguage, described: DescribedImage) -> None:
        image = read_image(described.path)
        began, count = time.perf_counter(), 0
        if described.captions:
            self.captions.append((str(model.caption(image)), described.captions))
            count += 1
        for group in _groups(described.questions, AT_ONCE):
            made = model.ask(image, [one.text for one in group])
            texts = [made] if isinstance(made, Text) else made
            self.asked += [(one, text.text) for one, text in zip(group, texts, strict=True)]
            count += len(group)
        self.images_asked += bool(described.questions)
        spent = 1e3 * (time.perf_counter() - began)
        self.each.append(spent / max(count, 1))
        self.whole.append(spent)

    def report(self, meteor: bool) -> Report:
        found: Report = ()
        if self.asked:
            kinds: dict[str, list[float]] = defaultdict(list)
            every = [answers.accuracy(text, question.answers) for question, text in self.asked]
            for (question, _), right in zip(self.asked, every, strict=True):
                kinds[question.kind].append(right)
            per_kind = {kind: statistics.fmean(right) for kind, right in sorted(kinds.items()) if kind}
            found += (AnswerMetrics(statistics.fmean(every), per_kind, self.images_asked, len(every)),)
        if self.captions:
            made, references = zip(*self.captions, strict=True)
            found += (captions.measure(made, references, meteor=meteor),)
        return found


def _retrieval(model: VisionLanguage, data: Sequence[DescribedImage], progress: Progress | None) -> MeasuredTexts:
    """Similarities of every image with every text, and matches of true pairs and of one false pair for each image."""
    described = [image for image in data if image.captions]
    if not described:
        raise InputError("no image has captions, which a retrieval model is measured by")
    texts = [image.captions[0] for image in described]
    different = list(dict.fromkeys(texts))
    words = np.concatenate([model.embed_text(group) for group in _groups(different, AT_ONCE)])
    false = recall.mismatched([image.captions for image in described])
    similarity: Floats = np.empty((len(described), len(different)), np.float32)
    told: list[bool] = []
    each: list[float] = []
    whole: list[float] = []
    for number, one in enumerate(described):
        image = read_image(one.path)
        began = time.perf_counter()
        similarity[number] = (model.embed(image) @ words.T).max(0)
        each.append(1e3 * (time.perf_counter() - began))
        told += _matches_truth(model, image, texts[number], false[number])
        whole.append(1e3 * (time.perf_counter() - began))
        if progress is not None:
            progress(number + 1, len(described))
    report = recall.measure(similarity, texts, statistics.fmean(told))
    return MeasuredTexts((report,), statistics.median(each), statistics.median(whole))


def _matches_truth(model: VisionLanguage, image: Image, true: str, false: str | None) -> list[bool]:
    """Whether matching accepts the true text and rejects the false one."""
    pairs = [(true, True)] if false is None else [(true, True), (false, False)]
    made = model.match(image, [text for text, _ in pairs])
    matches = [made] if isinstance(made, Match) else made
    return [(match.probability > 0.5) == wanted for match, (_, wanted) in zip(matches, pairs, strict=True)]


def _groups(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
