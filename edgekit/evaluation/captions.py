"""Captions against reference captions: CIDEr, BLEU-4, ROUGE-L and METEOR by pycocoevalcap, as the COCO challenge does.

METEOR and the Penn Treebank tokenizer run in Java and are left out where there is none. Nothing is fetched: both come
with the package. SPICE would fetch its parser, so it is not offered.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from edgekit.errors import EngineError, UsageError
from edgekit.evaluation.metrics import CaptionMetrics

_WORD = re.compile(r"\w+(?:'\w+)?")


def check_installed() -> None:
    """Check that pycocoevalcap is installed, before a model has run for an hour.

    Raises:
        UsageError: the package is not installed.
    """
    _scorers()


def measure(
    captions: Sequence[str], references: Sequence[Sequence[str]], java: bool | None = None, *, meteor: bool = True
) -> CaptionMetrics:
    """Compare one caption of each image with its references.

    Args:
        captions: as they were generated.
        references: at least one for each.
        java: whether to use Java; by default where it is installed.
        meteor: whether to compute METEOR, which takes the most time by far.

    Raises:
        UsageError: pycocoevalcap is not installed, or no caption was given.
        EngineError: Java fails.
    """
    if not captions:
        raise UsageError("no caption to measure")
    cider, bleu, rouge = _scorers()
    with_java = shutil.which("java") is not None if java is None else java
    flat = [*captions, *(one for many in references for one in many)]
    tokens = _treebank(flat) if with_java else [simple_tokens(text) for text in flat]
    said, rest = tokens[: len(captions)], iter(tokens[len(captions) :])
    truth = {number: [next(rest) for _ in many] for number, many in enumerate(references)}
    made = {number: [text] for number, text in enumerate(said)}
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints as it goes
        consensus = cider.Cider().compute_score(truth, made)[0]
        precision = bleu.Bleu(4).compute_score(truth, made)[0][3]
        overlap = rouge.Rouge().compute_score(truth, made)[0]
    exact = sum(text in truth[number] for number, text in enumerate(said)) / len(said)
    return CaptionMetrics(
        cider=float(consensus),
        bleu4=float(precision),
        rouge_l=float(overlap),
        meteor=_meteor(truth, made) if with_java and meteor else None,
        exact=exact,
        tokenizer="Penn Treebank" if with_java else "simple",
        images=len(captions),
    )


def simple_tokens(text: str) -> str:
    """Words in lower case with one space between, without punctuation: where Java is missing."""
    return " ".join(_WORD.findall(text.lower()))


def _treebank(texts: Sequence[str]) -> list[str]:
    """Texts as COCO tokenises them: by Stanford's tokenizer in lower case, punctuation removed."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    # A line of nothing would be swallowed.
    lines = "".join(f"{' '.join(text.split()) or '.'}\n" for text in texts)
    try:
        done = subprocess.run(
            [*command, "-preserveLines", "-lowerCase"], input=lines.encode(), capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise EngineError(f"Java cannot run the tokenizer of pycocoevalcap: {error}; reinstall either") from error
    found = done.stdout.decode("utf-8", "replace").split("\n")[: len(texts)]
    if len(found) != len(texts):
        raise EngineError(f"the tokenizer of pycocoevalcap gave {len(found)} lines for {len(texts)} captions")
    marks = frozenset(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.split() if word not in marks) for line in found]


def _meteor(truth: dict[int, list[str]], made: dict[int, list[str]]) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    try:
        return float(Meteor().compute_score(truth, made)[0])
    except (OSError, ValueError) as error:  # it went away, or wrote an error in place of a number
        raise EngineError(f"Java cannot run the METEOR of pycocoevalcap: {error}; give it 2 GB of memory") from error


def _scorers() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        from pycocoevalcap.bleu import bleu
        from pycocoevalcap.cider import cider
        from pycocoevalcap.rouge import rouge
    except ImportError as error:
        raise UsageError("captions are measured by pycocoevalcap: pip install edgekit[captions]") from error
    return cider, bleu, rouge
