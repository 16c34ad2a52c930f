"""The caller's side: objects that look like an engine's, and ask a child process."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Floats, Ints
from edgekit.errors import EngineError
from edgekit.isolation.messages import Answered, Arrays, Asked, Opening, announced, receive, send
from edgekit.runtimes.bundle.manifest import Graph, Language
from edgekit.runtimes.engines import Placement, SessionOptions, check_inputs
from edgekit.worker.process import Process, python

Answer = tuple[Answered, dict[str, NDArray[Any]]]


class Isolated:
    """A child process that opens the files of one bundle and runs them.

    Args:
        name: of the bundle, for messages.
        seconds: that one answer may take; after that the child is ended.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name, self._seconds = f"{name}, isolated", seconds
        self._process = Process(python("edgekit.isolation.child"), self._name, EngineError)
        self._lost = ""
        weakref.finalize(self, self._process.close)

    def open_session(self, name: str, folder: Path, graph: Graph, options: SessionOptions) -> IsolatedSession:
        """See `edgekit.runtimes.engines.open_session`."""
        return IsolatedSession(self, _opening("session", name, folder, {"": graph}, options))

    def open_network(self, name: str, folder: Path, graph: Graph, options: SessionOptions) -> IsolatedNetwork:
        """See `edgekit.runtimes.engines.open_network`."""
        return IsolatedNetwork(self, _opening("network", name, folder, {"": graph}, options))

    def open_language(
        self, name: str, folder: Path, graphs: Mapping[str, Graph], language: Language, options: SessionOptions
    ) -> IsolatedLanguage:
        """See `edgekit.runtimes.engines.open_language`; the embeddings are read in the child."""
        opening = _opening("language", name, folder, dict(graphs), options)
        return IsolatedLanguage(self, msgspec.structs.replace(opening, language=language))

    def open_tokenizer(self, path: Path) -> IsolatedTokenizer:
        """See `edgekit.runtimes.language.text.Tokenizer`."""
        return IsolatedTokenizer(self, Opening(kind="tokenizer", folder=str(path.absolute())))

    def ask(self, asked: Asked, arrays: Arrays | None = None) -> Answer:
        """Ask the child.

        Raises:
            EdgekitError: the error that was met there.
            EngineError: the child crashed, gave no answer in time, or something that is none.
        """
        if self._lost:
            raise EngineError(f"{self._lost}; open the bundle again")
        given = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
        late = threading.Event()
        timer = threading.Timer(self._seconds, self._end, (late,))
        timer.daemon = True
        timer.start()
        try:
            send(self._process.stdin, msgspec.structs.replace(asked, arrays=announced(given)), given.values())
            found = receive(self._process.stdout, Answered)
            problem = None
        except BrokenPipeError:
            found, problem = None, None
        except (ValueError, msgspec.DecodeError) as error:
            found, problem = None, error
        finally:
            timer.cancel()
        if found is None:
            raise self._given_up(late.is_set(), problem)
        answered, outputs = found
        if answered.failed is not None:
            raise answered.failed.error(self._name, EngineError)
        return answered, outputs

    def _end(self, late: threading.Event) -> None:
        late.set()
        self._process.kill()

    def _given_up(self, late: bool, problem: Exception | None) -> EngineError:
        """Why there is no answer; no further one is asked for."""
        if late:
            error = EngineError(f"{self._name}: no answer within {self._seconds:g} s, the child process was ended")
        elif problem is not None:
            error = EngineError(f"{self._name}: the child process sent an unexpected message: {problem}")
        else:
            error = EngineError(str(ended := self._process.ended()))
            error.__cause__ = ended.__cause__
        self._process.close()
        self._lost = str(error)
        return error


def _opening(kind: Any, engine: str, folder: Path, graphs: dict[str, Graph], options: SessionOptions) -> Opening:
    return Opening(
        kind=kind,
        engine=engine,
        folder=str(folder.absolute()),
        graphs=graphs,
        threads=options.threads,
        device=options.device,
        strict=options.strict,
    )


class _Remote:
    """Something that was opened in the child."""

    def __init__(self, child: Isolated, opening: Opening) -> None:
        self._child = child
        opened, _ = child.ask(Asked(method="open", opening=opening))
        self._number, self._where = opened.number, opened.where

    def _call(self, method: str, arrays: Arrays | None = None, **given: Any) -> Answer:
        return self._child.ask(Asked(method=method, of=self._number, **given), arrays)


class _Placed(_Remote):
    """A session or network, with its placement."""

    def __init__(self, child: Isolated, opening: Opening) -> None:
        super().__init__(child, opening)
        if self._where is None:
            raise EngineError("the child process did not say where the file runs")
        self.placement = Placement(self._where.device, self._where.operators, self._where.arithmetic, self._where.word)


class IsolatedSession(_Placed):
    """An `edgekit.runtimes.engines.Session` in the child."""

    def __init__(self, child: Isolated, opening: Opening) -> None:
        super().__init__(child, opening)
        (self._graph,) = opening.graphs.values()

    def run(self, inputs: Sequence[Floats]) -> list[Floats]:
        check_inputs(self._graph, inputs)
        _, outputs = self._call("run", {str(number): array for number, array in enumerate(inputs)})
        return list(outputs.values())


class IsolatedNetwork(_Placed):
    """An `edgekit.runtimes.engines.Network` in the child."""

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        return self._call("feed", feeds)[1]


class IsolatedLanguage(_Remote):
    """An `edgekit.runtimes.language.LanguageGraph` in the child."""

    def start(self, embeddings: Floats, mask: Ints) -> Floats:
        """Read the prompt."""
        return _logits(self._call("start", {"embeddings": embeddings, "mask": mask})[1])

    def step(self, tokens: Ints) -> Floats:
        """Append one token to every row."""
        return _logits(self._call("step", {"tokens": tokens})[1])

    def select(self, rows: Ints) -> None:
        """Continue with these rows."""
        self._call("select", {"rows": rows})


class IsolatedTokenizer(_Remote):
    """An `edgekit.runtimes.language.text.Tokenizer` in the child."""

    def __len__(self) -> int:
        return self._call("size")[0].number

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text."""
        return list(self._call("encode", text=text, special=special)[0].ids)

    def decode(self, ids: Sequence[int] | Ints) -> str:
        """The text of ids."""
        return self._call("decode", ids=tuple(int(one) for one in ids))[0].text or ""

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids in pieces."""
        self._call("begin")
        for one in ids:
            piece = self._call("piece", ids=(int(one),))[0].text
            if piece:
                yield piece


def _logits(outputs: dict[str, NDArray[Any]]) -> Floats:
    if "logits" not in outputs:
        raise EngineError("the child process gave no logits")
    return outputs["logits"]
