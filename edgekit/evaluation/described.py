"""Images with captions and questions: what vision-language models are measured on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import InputError
from edgekit.structures import from_json

ANNOTATIONS = "annotations.json"
IMAGES = "images"


@dataclass(frozen=True)
class AskedQuestion:
    """A question and everybody's answer: one, or those of several people. ``kind`` groups the figures."""

    text: str
    answers: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class DescribedImage:
    """An image file with its captions (each of which is right) and its questions; either may be none."""

    path: Path
    captions: tuple[str, ...] = ()
    questions: tuple[AskedQuestion, ...] = ()


class _Answer(msgspec.Struct):
    answer: str


class _Question(msgspec.Struct):
    question: str
    answer: str | None = None
    answers: tuple[str | _Answer, ...] = ()
    kind: str = ""
    answer_type: str = ""

    def read(self, where: str) -> AskedQuestion:
        given = [one if isinstance(one, str) else one.answer for one in self.answers]
        if not given and self.answer is not None:
            given = [self.answer]
        if not given:
            raise InputError(
                f"{where}: question {self.question!r} has no answer; give 'answer', or a list of 'answers'"
            )
        return AskedQuestion(self.question, tuple(given), self.kind or self.answer_type)


class _Image(msgspec.Struct):
    id: int
    file_name: str
    captions: tuple[str, ...] = ()
    questions: tuple[_Question, ...] = ()


class _Annotation(msgspec.Struct):
    image_id: int
    caption: str | None = None


class _File(msgspec.Struct):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...] = ()


def read_described(
    path: str | os.PathLike[str], images_dir: str | os.PathLike[str] | None = None, limit: int = 0
) -> tuple[DescribedImage, ...]:
    """Read a COCO-style file: ``images``, each with ``captions`` and ``questions`` of its own; or COCO's captions.

    An entry of ``questions`` is ``{"question": ..., "answer": ...}``, or has ``answers``: texts, or VQA's
    ``{"answer": ...}``. Captions may also stand in ``annotations``, as ``{"image_id": ..., "caption": ...}``. What else
    is in the file is passed over, and so are images with neither captions nor questions.

    Args:
        path: the file, or a folder with `ANNOTATIONS`.
        images_dir: folder that the file names start from; by default the file's own or ``images`` beside it.
        limit: number of images, from the first; 0 is all.

    Raises:
        InputError: it cannot be read, an image is missing, or no image has captions or questions.
    """
    file = Path(path)
    file = file / ANNOTATIONS if file.is_dir() else file
    found = _read(file)
    said: dict[int, list[str]] = {image.id: list(image.captions) for image in found.images}
    if len(said) != len(found.images):
        raise InputError(f"{file}: two images have the same id")
    for annotation in found.annotations:
        if annotation.caption is None:
            continue
        if annotation.image_id not in said:
            raise InputError(f"{file}: a caption is of image {annotation.image_id}, which is not in the file")
        said[annotation.image_id].append(annotation.caption)
    folder = _folder(file, found.images, images_dir)
    described = [
        DescribedImage(
            folder / image.file_name,
            tuple(caption.strip() for caption in said[image.id] if caption.strip()),
            tuple(question.read(str(file)) for question in image.questions),
        )
        for image in found.images
    ]
    described = [image for image in described if image.captions or image.questions][: limit or None]
    if not described:
        raise InputError(
            f"{file}: no image with captions or questions, so there is nothing to measure against; give each entry of "
            '\'images\' "captions": [...] or "questions": [{"question": ..., "answer": ...}]'
        )
    missing = [image.path for image in described if not image.path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: no such image, {len(missing)} of {len(described)} are missing; "
            "give their folder with --data"
        )
    return tuple(described)


def _read(file: Path) -> _File:
    kinds: Any = _File
    try:
        found: _File = from_json(file.read_bytes(), kinds)
    except FileNotFoundError as error:
        raise InputError(
            f"{file}: no such file; vision-language models are measured on a COCO-style {ANNOTATIONS} with captions or "
            "questions"
        ) from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not a COCO-style file of images with captions or questions ({error})") from error
    return found


def _folder(file: Path, images: Sequence[_Image], given: str | os.PathLike[str] | None) -> Path:
    if given is not None:
        return Path(given)
    inside = file.parent / IMAGES
    return inside if images and (inside / images[0].file_name).is_file() else file.parent
