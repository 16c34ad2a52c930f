"""Shared by ``edgekit profile`` and ``edgekit recommend``: finding bundles, progress, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekit.profiling.protocol import Event
    from edgekit.profiling.record import Profile
    from edgekit.profiling.records.making import Made


FEW = 3
"""Bundles that are named where a note is of several."""


def store_option(function: Any) -> Any:
    """``--store``: the file of records."""
    return click.option(
        "--store", type=click.Path(path_type=Path), help="File of records. [default: $EDGEKIT_PROFILES, or the user's]"
    )(function)


def bundle_folders(given: Sequence[str]) -> tuple[Path, ...]:
    """Folders of bundles: patterns are expanded, what is no bundle is left out of a pattern."""
    import glob

    from edgekit.errors import UsageError
    from edgekit.runtimes.bundle.manifest import MANIFEST

    found: list[Path] = []
    for text in given:
        if glob.has_magic(text) and not Path(text).exists():
            matched = sorted(Path(path) for path in glob.glob(text))  # noqa: PTH207 - patterns with folders in them
            folders = [path for path in matched if (path / MANIFEST).is_file()]
            if not folders:
                raise UsageError(f"{text}: no bundle there; give folders that edgekit convert wrote")
            found += folders
        else:
            found.append(Path(text))
    # A shell that expands out/* gives everything in it.
    several = len(found) > 1 and any((path / MANIFEST).is_file() for path in found)
    return tuple(dict.fromkeys(path for path in found if not several or (path / MANIFEST).is_file()))


@contextmanager
def told() -> Iterator[Callable[[Event], None]]:
    """A report that shows progress where a person watches."""
    from edgekit.cli._progress import progress_bars
    from edgekit.profiling.protocol import SessionProgress

    with progress_bars() as watch:

        def report(event: Event) -> None:
            if isinstance(event, SessionProgress):
                watch("profile", event.text, event.share)

        yield report


def check_html(html: Path | None) -> None:
    """See before anything is measured that a page can be written.

    Raises:
        UsageError: it needs a package that is not installed.
    """
    if html is not None:
        import edgekit.report.render  # noqa: F401 - says what to install


def write(profiles: Sequence[Profile], csv: Path | None, html: Path | None) -> None:
    """Write what was asked for, where there is anything to write."""
    if csv is not None and profiles:
        from edgekit.report.profile_table import write_csv

        with csv.open("w", newline="", encoding="utf-8") as stream:
            write_csv(profiles, stream)
    if html is not None and profiles:
        from edgekit.report.profiles import write_profiles

        write_profiles(profiles, html)


def document(profiles: Sequence[Profile], made: Made | None = None) -> str:
    """Records, and what was skipped, as JSON."""
    import msgspec

    document = {"profiles": list(profiles), "skipped": list(made.skipped) if made else []}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def show(made: Made) -> None:
    """Print the table, the notes, and what was skipped."""
    from edgekit.cli._options import console
    from edgekit.cli._reports import escape, table
    from edgekit.report.profile_table import terminal

    if made.profiles:
        shown = terminal(made.profiles, console().width)
        table(shown.columns, [[escape(cell) for cell in row] for row in shown.rows], right=shown.right)
    notes: dict[str, list[str]] = {}
    for profile in made.profiles:
        for note in profile.notes:
            notes.setdefault(note, []).append(profile.subject.name)
    for note, names in notes.items():
        whose = ", ".join(names) if len(names) <= FEW else f"{len(names)} of {len(made.profiles)}"
        say(f"{whose}: {note}")
    for skipped in made.skipped:
        say(f"{Path(skipped.bundle).name}: not measured: {skipped.reason}")
