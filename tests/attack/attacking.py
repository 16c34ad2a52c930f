"""Runs mutants in a child process, one after the other, and tells what became of each.

A mutant is a kind (`kinds.KINDS`) and a seed, or a file of the corpus: the same again on every machine. To see one:
``python tests/attack/attacking.py KIND SEED``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SECONDS = 10.0
"""That a mutant may take."""

MOST_BYTES = 3_000_000_000
"""Of memory that a mutant may take: an image of the largest size has 0.8 GB, and is decoded, turned and copied; an
isolated bundle may take 2 GiB."""

PREPARING = 120.0


class Became(str, Enum):
    """What a mutant became."""

    REFUSED = "refused"
    SAME = "same result"
    OTHER = "another result"
    WRONG = "silently wrong"
    FOREIGN = "foreign exception"
    CRASH = "crash"
    HANG = "hang"
    MEMORY = "memory"


FINE = frozenset((Became.REFUSED, Became.SAME, Became.OTHER))


@dataclass(frozen=True)
class Mutant:
    """One mutant: of a seed, or of a file of the corpus. ``isolated`` opens a bundle in a child of its own."""

    kind: str
    seed: int = 0
    kept: str = ""
    isolated: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.kept or self.seed}{' isolated' if self.isolated else ''}"


@dataclass(frozen=True)
class Outcome:
    """What a mutant became, what had been done to it, and details.

    ``native`` is what a bundle did to a process that did not open it in isolated mode, where it ended that.
    """

    mutant: Mutant
    became: Became
    did: str = ""
    words: str = ""
    seconds: float = 0.0
    megabytes: int = 0
    native: Became | None = None

    def __str__(self) -> str:
        return f"{self.mutant}: {self.became.value} ({self.did}): {self.words}"


@dataclass
class Report:
    """All outcomes of one run."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def bad(self) -> list[Outcome]:
        """Those that may not be."""
        return [one for one in self.outcomes if one.became not in FINE]

    def count(self, became: Became) -> int:
        """How many became this."""
        return sum(one.became is became for one in self.outcomes)

    def __str__(self) -> str:
        found = Counter(one.became.value for one in self.outcomes)
        slowest = max((one.seconds for one in self.outcomes), default=0.0)
        most = max((one.megabytes for one in self.outcomes), default=0)
        ended = Counter(one.native.value for one in self.outcomes if one.native)
        native = f", not isolated: {dict(ended)}" if ended else ""
        return f"{len(self.outcomes)}: {dict(found)}{native}, slowest {slowest:.1f} s, {most} MB at most"


class Victim:
    """The child process that opens mutants of one kind."""

    def __init__(self, kind: str, folder: Path) -> None:
        path = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        quiet = {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "attacking.py"), "--serve", kind, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **quiet},
            start_new_session=True,
        )
        self._read = b""
        ready = self._line(PREPARING, 1 << 62)
        if not isinstance(ready, bytes):
            raise RuntimeError(f"{kind}: {ready}; {self.last_words()}")

    def open(self, mutant: Mutant) -> Outcome:
        """Have it open one. After a crash, a hang or too much memory it is gone."""
        begun = time.monotonic()
        self._stdin.write(json.dumps([mutant.seed, mutant.kept, mutant.isolated]).encode() + b"\n")
        self._stdin.flush()
        did, line = "", self._line(SECONDS, MOST_BYTES)
        if isinstance(line, bytes):  # what is done, before it is opened
            did = json.loads(line)["did"]
            line = self._line(SECONDS, MOST_BYTES)
        seconds = time.monotonic() - begun
        if isinstance(line, bytes):
            told = json.loads(line)
            megabytes = told["peak"] >> 20
            became = Became(told["became"]) if told["peak"] < MOST_BYTES else Became.MEMORY
            return Outcome(mutant, became, did, told["words"], seconds, megabytes)
        words = self.last_words()
        self.close()
        return Outcome(mutant, line, did, words, seconds)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def _line(self, seconds: float, most: int) -> bytes | Became:
        """A line that it says, or why there is none."""
        until = time.monotonic() + seconds
        assert self._process.stdout is not None
        file = self._process.stdout.fileno()
        while b"\n" not in self._read:
            if select.select([file], [], [], 0.1)[0]:
                piece = os.read(file, 1 << 16)
                if not piece:
                    return Became.CRASH
                self._read += piece
            elif resident(self._process.pid) > most:
                self._kill()
                return Became.MEMORY
            elif time.monotonic() > until:
                self._kill()
                return Became.HANG
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _kill(self) -> None:
        for pid in [*below(self._process.pid), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def last_words(self) -> str:
        """The end of its stderr, and how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._log.seek(0)
        words = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()
        return f"exit code {self._process.returncode}; {' | '.join(words[-3:])}"

    def close(self) -> None:
        """End it."""
        if self.alive:
            self._kill()
        self._process.wait()
        self._stdin.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()


def below(pid: int) -> list[int]:
    """All processes that a process has started, and that these have."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *below(int(child))]
    return found


def resident(pid: int) -> int:
    """Bytes in memory of a process and all below it; what they share counts again."""
    total = 0
    for one in [pid, *below(pid)]:
        with contextlib.suppress(OSError, IndexError):
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def attack(kind: str, mutants: Iterable[Mutant], folder: Path, *, seconds: float = 0.0) -> Report:
    """Open mutants of one kind; a bundle that ends its process is opened again in isolated mode, which counts.

    Args:
        kind: of all of them.
        mutants: which.
        folder: takes their files.
        seconds: after so many no further one is begun; 0 is never.
    """
    report, until = Report(), time.monotonic() + (seconds or 1e9)
    with contextlib.ExitStack() as held:
        victim: Victim | None = None

        def opened(mutant: Mutant) -> Outcome:
            nonlocal victim
            if victim is None or not victim.alive:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                victim = Victim(kind, folder)
                held.callback(victim.close)
            return victim.open(mutant)

        for mutant in mutants:
            if time.monotonic() > until:
                break
            outcome = opened(mutant)
            native = outcome.became in (Became.CRASH, Became.HANG, Became.MEMORY)
            if native and kind.startswith("bundle") and not mutant.isolated:
                again = opened(Mutant(kind, mutant.seed, mutant.kept, isolated=True))
                words = f"{again.words} [{outcome.became.value} when not isolated: {outcome.words}]"
                given = (again.became, outcome.did, words, again.seconds, again.megabytes)
                outcome = Outcome(mutant, *given, native=outcome.became)
            report.outcomes.append(outcome)
    shutil.rmtree(folder, ignore_errors=True)
    return report


# ---- in the child ----


def serve(kind: str, folder: Path) -> None:
    """Open what stdin names, one after the other."""
    import kinds

    told = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    subject = kinds.KINDS[kind]()
    subject.prepare(folder)
    told.write(b"{}\n")
    for number, line in enumerate(sys.stdin.buffer):
        seed, kept, isolated = json.loads(line)
        place = folder / f"{number}"
        place.mkdir()
        for answer in _opened(subject, Mutant(kind, seed, kept, isolated), place):
            told.write(json.dumps(answer).encode() + b"\n")
        shutil.rmtree(place, ignore_errors=True)


def _opened(subject: Any, mutant: Mutant, place: Path) -> Iterator[dict[str, Any]]:
    from random import Random

    from edgekit.errors import EdgekitError

    if mutant.kept:
        made = subject.take(HERE / "corpus" / mutant.kept, place)
    else:
        made = subject.make(Random(f"{mutant.kind} {mutant.seed}"), place)
    yield {"did": made.did}
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from here
    before = _memory("VmRSS")
    try:
        result = subject.open(place, isolated=mutant.isolated)
        same = result == subject.whole(made.base)
        became = Became.SAME if same else Became.WRONG if made.sealed else Became.OTHER
        words = ""
    except EdgekitError as error:
        became, words = Became.REFUSED, f"{type(error).__name__}: {error}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        became, words = Became.FOREIGN, _brief(error)
    peak = max(0, _memory("VmHWM") - before)
    yield {"became": became.value, "words": words[:1000], "peak": peak}


def _memory(what: str) -> int:
    """Of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) << 10
    return 0


def _brief(error: BaseException) -> str:
    import traceback

    places = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)[-4:]]
    return f"{type(error).__name__}: {error} ({' > '.join(places)})"


def main() -> None:
    """Serve, or show one mutant."""
    if sys.argv[1] == "--serve":
        serve(sys.argv[2], Path(sys.argv[3]))
        return
    kind, what, *more = sys.argv[1:]
    which: dict[str, Any] = {"seed": int(what)} if what.isdigit() else {"kept": what}
    mutant = Mutant(kind, isolated="isolated" in more, **which)
    for outcome in attack(kind, [mutant], Path(tempfile.mkdtemp()) / "mutants").outcomes:
        print(outcome)


if __name__ == "__main__":
    main()
