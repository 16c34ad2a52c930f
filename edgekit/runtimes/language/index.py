"""An image index, searchable by text or image, over the vectors of a retrieval bundle."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.arrays import Floats
from edgekit.errors import BundleError, UsageError
from edgekit.runtimes.language.vision_language import VisionLanguage
from edgekit.runtimes.model import read
from edgekit.structures import from_json

SCHEMA = 1
INDEX, VECTORS = "index.json", "vectors.npy"
BLOCK = 4096
"""Images whose vectors are compared at once: 16 MB of products at 32 queries and 32 query vectors."""
RERANKED = 8
"""Images that are matched with a text at once."""


class Hit(msgspec.Struct, frozen=True, kw_only=True, rename={"source": "image"}):
    """One image that was found.

    Args:
        source: its name, as `edgekit.runtimes.inputs.media.SourceFrame.name`.
        score: similarity to the query, -1..1.
        probability: that a text belongs to it (image-text matching), where that was asked for.
    """

    source: str
    score: float
    probability: float | None = None


class _Heading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int
    model: str
    identity: str
    vectors_sha256: str
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """Vectors of images, with their names.

    Every image has one vector of length 1 for each query of the Q-Former. Its similarity to a text is the largest
    product of any of them with the text's (BLIP-2, Li et al., 2023, arXiv:2301.12597, 3.2). Similarity to another image
    is the mean, over that image's vectors, of the same (late interaction: Khattab and Zaharia, ColBERT, 2020,
    arXiv:2004.12832, 3.3), so that an image is the most similar to itself. The search compares with every image.

    Args:
        model: the retrieval bundle that made the vectors.
        names: of the images.
        vectors: float32 (images, queries, dimensions).

    Raises:
        UsageError: not a retrieval bundle.
    """

    model: VisionLanguage
    names: tuple[str, ...]
    vectors: Floats

    def __post_init__(self) -> None:
        if self.model.kind != "retrieval":
            raise UsageError("an index of images needs a retrieval bundle (BLIP-2 for image-text matching)")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def build(
        cls, model: VisionLanguage, source: Any, *, batch: int = 8, progress: Callable[[int], None] | None = None
    ) -> ImageIndex:
        """An index of the images that `inputs.media.frames` finds in a source: a folder, a pattern, a list.

        Args:
            model: a retrieval bundle.
            source: of images.
            batch: images that run together.
            progress: told how many are done, after every batch.

        Raises:
            InputError: no images, or one that cannot be read.
            UsageError: not a retrieval bundle.
        """
        from edgekit.runtimes.inputs.media import frames

        if batch < 1:
            raise UsageError(f"batch must be 1 or more, not {batch}")
        empty = cls(model, (), np.zeros((0, 0, 0), np.float32))  # refuses the wrong kind of bundle before any work
        names: list[str] = []
        vectors: list[Floats] = [empty.vectors]
        for group in _groups(frames(source), batch):
            names += [frame.name for frame in group]
            with model.exclusive:
                encoded = model.encoder.encode([frame.image for frame in group])
            vectors.append(np.stack([one.projected for one in encoded]))
            if progress is not None:
                progress(len(names))
        return cls(model, tuple(names), np.concatenate(vectors[1:]) if names else empty.vectors)

    def search(self, query: Any, top: int = 10, *, rerank: int = 0) -> list[Hit]:
        """The images that are the most similar to a query, the best first; of equal ones the first indexed.

        Args:
            query: a text (str), or an image: a Path, a uint8 array (h, w, 3) BGR or a PIL image.
            top: the most images that are returned.
            rerank: order so many of the best anew by the probability that the text belongs to them, which reads both
                together; the images have to be where they were. 0 is off.

        Raises:
            UsageError: a number out of range, or reranking for an image.
            InputError: not an image, or (reranking) one that is no longer there.
        """
        if top < 1 or rerank < 0:
            raise UsageError(f"top={top} and rerank={rerank}: top must be 1 or more, rerank 0 or more")
        if rerank and not isinstance(query, str):
            raise UsageError("rerank compares a text with images; search by image without it")
        wanted = self.model.embed_text([query]) if isinstance(query, str) else self.model.embed(query, "itc")
        scores = self.similarities(wanted)
        best = np.argsort(-scores, kind="stable")[: max(top, rerank)]
        hits = [Hit(source=self.names[place], score=float(scores[place])) for place in best]
        if rerank:
            hits[:rerank] = self._reranked(query, hits[:rerank])
        return hits[:top]

    def similarities(self, wanted: Floats) -> Floats:
        """Similarity of every image, float32 (images,), to vectors (n, dimensions) of a text (one) or an image."""
        if not len(self):
            return np.zeros(0, np.float32)
        blocks = (self.vectors[start : start + BLOCK] for start in range(0, len(self), BLOCK))
        found: Floats = np.concatenate([(block @ wanted.T).max(1).mean(1) for block in blocks]).astype(np.float32)
        return found

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a folder with the vectors (.npy) and all else (.json); an index that is there is replaced.

        Raises:
            BundleError: it cannot be written, or something that is no index is there.
        """
        from edgekit.runtimes.bundle.folder import sha256, writing

        folder = Path(path)
        with writing(folder):
            if (
                folder.exists()
                and not (folder / INDEX).is_file()
                and not (folder.is_dir() and not any(folder.iterdir()))
            ):
                raise BundleError(f"{folder}: exists and is not an index; move it away or choose another -o")
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"new-{VECTORS}", self.vectors, allow_pickle=False)
            manifest = self.model.manifest
            heading = _Heading(
                schema=SCHEMA,
                model=manifest.name if manifest is not None else "",
                identity=self.model.identity,
                vectors_sha256=sha256(folder / f"new-{VECTORS}"),
                names=self.names,
            )
            (folder / f"new-{INDEX}").write_bytes(msgspec.json.encode(heading))
            # Killed between the two, the hash tells that they do not belong together.
            (folder / f"new-{VECTORS}").replace(folder / VECTORS)
            (folder / f"new-{INDEX}").replace(folder / INDEX)
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str], model: VisionLanguage) -> ImageIndex:
        """An index that `save` wrote, memory-mapped.

        Args:
            path: the folder.
            model: the bundle that made it; vectors of another cannot be compared.

        Raises:
            BundleError: no index there, damaged, or too new.
            UsageError: made by another bundle.
        """
        folder = Path(path)
        heading = _heading(folder / INDEX)
        if heading.identity != model.identity:
            raise UsageError(
                f"{folder}: made by another bundle ({heading.model or 'unnamed'}), whose vectors cannot be compared; "
                "index the images again"
            )
        return cls(model, heading.names, _vectors(folder / VECTORS, heading))

    def _reranked(self, text: str, hits: Sequence[Hit]) -> list[Hit]:
        found = []
        for group in _groups(iter(hits), RERANKED):
            matches = self.model.match([read(Path(hit.source))[0] for hit in group], [text] * len(group))
            for hit, match in zip(group, matches if isinstance(matches, list) else [matches], strict=True):
                found.append((match.probability, msgspec.structs.replace(hit, probability=match.probability)))
        return [hit for _, hit in sorted(found, key=lambda one: -one[0])]


def _heading(path: Path) -> _Heading:
    try:
        data = path.read_bytes()
        version = from_json(data, _Version).schema
        if version > SCHEMA:
            raise BundleError(
                f"{path}: an index of layout {version}, this edgekit reads up to {SCHEMA}; update edgekit"
            )
        return from_json(data, _Heading)
    except FileNotFoundError as error:
        raise BundleError(f"{path.parent}: no index there (no {INDEX}); give the folder of edgekit index") from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: not a readable index ({error}); index the images again") from error


class _Version(msgspec.Struct):
    schema: int


def _vectors(path: Path, heading: _Heading) -> Floats:
    from edgekit.runtimes.bundle.folder import sha256

    try:
        whole = sha256(path) == heading.vectors_sha256
        found: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: cannot be read as vectors: {error}; index the images again") from error
    if not whole or found.ndim != 3 or found.dtype != np.float32 or len(found) != len(heading.names):
        raise BundleError(f"{path}: not the vectors that were written (hash or shape differs); index the images again")
    return found


def _groups(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    group: list[Any] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
