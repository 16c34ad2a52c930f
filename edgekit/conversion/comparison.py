"""Interfaces for validation: a source that gives reference results, and the comparison of a bundle with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgekit.calibration.samples import Samples
from edgekit.conversion.decoded import DecodedComparison
from edgekit.conversion.jobs import Exported, Part, Prepared, Reference
from edgekit.conversion.texts import TextComparison
from edgekit.conversion.workspace import Workspace
from edgekit.progress import Report
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.runtimes.bundle.manifest import Contract, Evidence, Gate, Origin
from edgekit.runtimes.inputs.media import ImageReference


class ReferenceSource(Protocol):
    """A loaded source, which runs on the proof images and stores its results as the reference.

    Attributes:
        name: of the bundles.
        contract: what goes in, and what the outputs mean.
        origin: for the manifest.
        parts: its networks.
        written: the folder whose parts are written tensor by tensor, empty where it is exported.
        most_images: proof images that it is run on at most, None for all.
        has_recipes: whether there are several ways of quantising it, to be compared on the hold-out set.
        packages: whose versions are recorded.
    """

    name: str
    contract: Contract
    origin: Origin
    parts: tuple[Part, ...]
    written: str
    most_images: int | None
    has_recipes: bool
    packages: tuple[str, ...]

    def export(self, workspace: Workspace) -> Exported:
        """Export the exchange files of a model of one network."""
        ...

    def run(self, proof: Samples, workspace: Workspace, report: Report) -> Reference:
        """Run it on all images and store the results in the workspace; returns how they were obtained.

        Raises:
            SourceError: the source gives NaN or infinite values itself, or nothing that could be proven.
        """
        ...

    def doubts(self, images: Sequence[ImageReference]) -> tuple[str, ...]:
        """Doubts about the stated contract, from the source's results on photographs."""
        ...


class Comparison(Protocol):
    """Compares a bundle with the reference results of its source.

    Attributes:
        takes: names of the options of a conversion that its bundles need, besides those that all have.
        bounds: names of the bounds of its gates.
        gates: bounds by precision.
    """

    takes: frozenset[str]
    bounds: tuple[str, ...]
    gates: Mapping[str, Gate]

    def judged_by(self, precisions: Sequence[str]) -> str:
        """The key in ``gates`` for a bundle whose parts have these precisions."""
        ...

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
        """Run a bundle on the proof images and measure how far it is from its source; draw a contact sheet of both.

        ``batch``: images in each run, of bundles of one network.

        Raises:
            ContractError: the two cannot be compared.
            EngineError: an engine cannot open or run it, or gives NaN or infinite values.
        """
        ...


def comparison(*, written: bool) -> Comparison:
    """The comparison of texts for models written tensor by tensor, of decoded results for all others."""
    return TextComparison() if written else DecodedComparison()
