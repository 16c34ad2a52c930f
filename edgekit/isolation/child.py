"""The child: opens what it is asked to, calls its methods, and ends when the caller's pipe does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from edgekit.errors import EngineError
from edgekit.isolation.messages import Answered, Asked, Opening, Where, announced, receive, send
from edgekit.runtimes.engines import SessionOptions, engine, open_language, open_network, open_session
from edgekit.runtimes.language.parts import EMBEDDINGS, read_embeddings
from edgekit.runtimes.language.text import Tokenizer
from edgekit.worker import memory
from edgekit.worker.child import streams
from edgekit.worker.messages import failed

Result = tuple[Answered, dict[str, NDArray[Any]]]

ROOM, TIMES = 2 << 30, 8
"""Memory that opening and running may take: so many bytes, and so many times what the bundle's files have."""


def main() -> None:
    """Serve what the caller asks on stdin; what engines print goes to stderr."""
    stdin, answers = streams()
    served, sound = _Served(), True
    while sound and (message := receive(stdin, Asked)) is not None:
        asked, arrays = message
        outputs: dict[str, NDArray[Any]] = {}
        try:
            answer, outputs = served.answer(asked, arrays)
        except BaseException as error:  # noqa: BLE001 - the process's edge: the caller raises it again
            answer = Answered(failed=failed(error))
            sound = isinstance(error, Exception)  # not after a panic of Rust, for one
        send(answers, msgspec.structs.replace(answer, arrays=announced(outputs)), outputs.values())
    answers.flush()
    os._exit(0)  # some engines crash while Python tears them down


class _Served:
    """The files opened so far, by number."""

    def __init__(self) -> None:
        self._opened: list[Any] = []
        self._piece: Callable[[int], str | None] | None = None

    def answer(self, asked: Asked, arrays: dict[str, NDArray[Any]]) -> Result:
        """The result of a call."""
        if asked.method == "open" and asked.opening is not None:
            self._opened.append(_open(asked.opening))
            return Answered(number=len(self._opened) - 1, where=_where(self._opened[-1])), {}
        one = self._opened[asked.of]
        if asked.method == "run":
            return Answered(), {str(number): array for number, array in enumerate(one.run(list(arrays.values())))}
        if asked.method == "feed":
            return Answered(), one.run(arrays)
        if asked.method in ("start", "step"):
            return Answered(), {"logits": getattr(one, asked.method)(**arrays)}
        if asked.method == "select":
            one.select(**arrays)
            return Answered(), {}
        return self._text(one, asked), {}

    def _text(self, tokenizer: Tokenizer, asked: Asked) -> Answered:
        """The result of a tokenizer's method."""
        if asked.method == "encode":
            return Answered(ids=tuple(tokenizer.encode(asked.text, special=asked.special)))
        if asked.method == "decode":
            return Answered(text=tokenizer.decode(asked.ids))
        if asked.method == "size":
            return Answered(number=len(tokenizer))
        if asked.method == "begin":  # one text at a time is decoded piece by piece
            self._piece = tokenizer.pieces()
            return Answered()
        if asked.method == "piece" and self._piece is not None:
            return Answered(text=self._piece(asked.ids[0]))
        raise EngineError(f"nothing here answers {asked.method!r}")


def _where(opened: Any) -> Where | None:
    placement = getattr(opened, "placement", None)
    if placement is None:
        return None
    return Where(
        device=placement.device, operators=placement.operators, arithmetic=placement.arithmetic, word=placement.word
    )


def _open(opening: Opening) -> Any:
    folder, options = Path(opening.folder), SessionOptions(opening.threads, opening.device, opening.strict)
    _bound_memory(opening, folder)
    if opening.kind == "tokenizer":
        return Tokenizer(folder)
    if opening.kind == "language":
        if opening.language is None:
            raise EngineError("a language model without its contract")
        embeddings = read_embeddings(folder / EMBEDDINGS, opening.language)
        return open_language(opening.engine, folder, opening.graphs, opening.language, embeddings, options)
    (graph,) = opening.graphs.values()
    open_one = open_session if opening.kind == "session" else open_network
    return open_one(opening.engine, folder, graph, options)


def _bound_memory(opening: Opening, folder: Path) -> None:
    """A file may ask its engine for memory without end. Drivers of accelerators claim more than they take."""
    if opening.engine and (opening.device or engine(opening.engine).devices[0]) != "cpu":
        return
    files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    memory.limit(ROOM + TIMES * sum(path.stat().st_size for path in files))


if __name__ == "__main__":
    main()
