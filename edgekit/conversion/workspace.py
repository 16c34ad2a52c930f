"""The working folder of one conversion: beside its bundles, locked while in use; the next run removes a leftover."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit import converters
from edgekit.calibration.samples import Samples
from edgekit.calibration.split import CALIBRATION, HELD, PROOF
from edgekit.conversion.jobs import Prepared
from edgekit.graph.exchange import ONNX, PROGRAM
from edgekit.runtimes.bundle.folder import locked, sweep, writing
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.structures import from_json

_PREFIX = ".edgekit-work-"


@dataclass(frozen=True)
class Workspace:
    """Paths of all files that the stages exchange.

    A network in exchange form is ``onnx`` and ``program``, its quantisation plan the folder ``plan``. ``calibration``
    and ``proof`` are streams of images, ``reference(name)`` the source's output for each proof image.
    `holdout` has both for the hold-out set.
    """

    folder: Path

    @property
    def prepared(self) -> Path:
        """Results of the first stage, as JSON."""
        return self.folder / "prepared.json"

    @property
    def onnx(self) -> Path:
        """The network as ONNX."""
        return self.folder / ONNX

    @property
    def program(self) -> Path:
        """The network as a torch.export program."""
        return self.folder / PROGRAM

    @property
    def calibration(self) -> Path:
        """Images to calibrate on, uint8 (n, height, width, 3)."""
        return self.folder / CALIBRATION

    @property
    def proof(self) -> Path:
        """Images to compare on, uint8 (n, height, width, 3)."""
        return self.folder / PROOF

    @property
    def holdout(self) -> Workspace:
        """The hold-out set, as the proof images of a workspace of its own."""
        return Workspace(self.folder / HELD)

    def at_size(self, size: tuple[int, int]) -> Workspace:
        """The workspace of another input size."""
        return Workspace(self.folder / f"{size[0]}x{size[1]}")

    @property
    def hard_swish(self) -> Workspace:
        """The workspace of the same network with hard swish in place of SiLU."""
        return Workspace(self.folder / "hard-swish")

    @property
    def plan(self) -> Path:
        """Folder of the quantisation plan."""
        return self.folder / "plan"

    @property
    def ranges(self) -> Path:
        """Ranges of activations of a part that is written tensor by tensor."""
        return self.folder / "ranges.npz"

    @property
    def inputs(self) -> Path:
        """Folder of what the layers of parts that are written tensor by tensor read on calibration data."""
        return self.folder / "inputs"

    @property
    def detections(self) -> Path:
        """The source's results on the proof images."""
        return self.folder / "reference.npz"

    @property
    def questions(self) -> Path:
        """The prompts that the source was given, as JSON."""
        return self.folder / "questions.json"

    @property
    def tokens(self) -> Path:
        """Tokens of the source's texts of fixed length, without an end token."""
        return self.folder / "tokens.npy"

    @property
    def answers(self) -> Path:
        """Tokens of the source's texts up to its end token."""
        return self.folder / "answers.npy"

    def reference(self, name: str) -> Path:
        """One output of the source on all proof images."""
        return self.folder / f"reference-{name}.npy"

    def read_prepared(self) -> Prepared:
        """Read the results of the first stage."""
        return from_json(self.prepared.read_bytes(), Prepared)

    def write_prepared(self, prepared: Prepared) -> None:
        """Store the results of the first stage for the others."""
        self.prepared.write_bytes(msgspec.json.encode(prepared))

    def calibration_images(self, rule: ImageRule) -> Samples | None:
        """The images to calibrate on as a stream, None where there are none."""
        return Samples(self.calibration, rule) if self.calibration.exists() else None

    def proof_images(self, rule: ImageRule) -> Samples:
        """The images to compare on as a stream."""
        return Samples(self.proof, rule)

    def scratch(self, target: str, name: str) -> Path:
        """A folder for a target's intermediate files, created if missing."""
        folder = self.folder / target / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def fresh(self, target: str, prefix: str) -> Path:
        """A new empty folder for files of a target."""
        parent = self.folder / target
        parent.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=parent))


@contextlib.contextmanager
def open_workspace(out: Path) -> Iterator[Workspace]:
    """A private folder below ``out``, removed at the end; leftovers of killed runs are removed at the start.

    Raises:
        BundleError: ``out`` cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        sweep(out, _is_bundle)
        # Absolute: toolchains run in folders of their own, where a relative path is another one.
        folder = out.absolute() / f"{_PREFIX}{os.getpid()}-{os.urandom(3).hex()}"
        with locked(folder.with_suffix(".lock")):
            folder.mkdir(mode=0o700)
            try:
                yield Workspace(folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def temporary_workspace() -> Iterator[Workspace]:
    """One where the system keeps temporary files, for work that leaves no bundle."""
    with open_workspace(Path(tempfile.gettempdir())) as workspace:
        yield workspace


def _is_bundle(name: str) -> bool:
    """Whether a name ends as a bundle's does: ``NAME-TARGET-PRECISION``."""
    words = name.rsplit("-", 2)
    return len(words) == 3 and set(words[1].split("+")) <= set(converters.target_names())


def _sweep(out: Path) -> None:
    """Remove workspaces whose lock nobody holds any more; where others write too, only one's own."""
    for lock in out.glob(f"{_PREFIX}*.lock"):
        if lock.is_symlink():
            continue
        with contextlib.suppress(BlockingIOError, PermissionError), locked(lock):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
