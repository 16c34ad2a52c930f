"""HOST: profiles as lines of figures, for a terminal and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from edgekit.profiling.record import STAGES, Profile, StageName
from edgekit.profiling.records.naming import Named, named
from edgekit.report.numbers import number, percent

Value = str | int | float | None
"""The value of a cell; None: unknown, or not measured."""


@dataclass(frozen=True)
class TableColumn:
    """A figure of every profile: ``name`` in CSV, with its unit, and ``title`` in a terminal, empty where it is not
    shown there; ``write`` is how a number looks there."""

    name: str
    title: str
    read: Callable[[Named], Value]
    write: Callable[[float], str] = number

    def text(self, value: Value) -> str:
        """The figure as one reads it."""
        if value is None:
            return "-"
        return value if isinstance(value, str) else self.write(value)


def _of(read: Callable[[Profile], Value]) -> Callable[[Named], Value]:
    return lambda one: read(one.profile)


def _megabytes(count: float) -> str:
    return number(count / 1e6)


def _stage(stage: StageName) -> TableColumn:
    def read(profile: Profile) -> Value:
        return profile.stages[stage].p50 if stage in profile.stages else None

    return TableColumn(f"{stage}_p50_ms", stage, _of(read))


def _load(*, cold: bool) -> Callable[[Named], Value]:
    def read(one: Named) -> Value:
        told = one.profile.load(cold=cold)
        return told.total if told else None

    return read


def _build(profile: Profile) -> Value:
    return max((one.build for one in profile.loads), default=None)


COLUMNS: tuple[TableColumn, ...] = (
    TableColumn("profile", "", lambda one: one.label),
    TableColumn("target", "target", _of(lambda one: one.subject.target)),
    TableColumn("precision", "precision", _of(lambda one: one.subject.precision)),
    TableColumn("remark", "", lambda one: one.remark),
    TableColumn("device", "", _of(lambda one: one.conditions.machine.key)),
    TableColumn("task", "", _of(lambda one: one.subject.task)),
    TableColumn("name", "", _of(lambda one: one.subject.name)),
    TableColumn("input_height", "", _of(lambda one: one.subject.size[0])),
    TableColumn("input_width", "", _of(lambda one: one.subject.size[1])),
    TableColumn("threads", "", _of(lambda one: one.settings.threads)),
    TableColumn("total_p50_ms", "p50 ms", _of(lambda one: one.total.p50)),
    TableColumn("total_p90_ms", "p90", _of(lambda one: one.total.p90)),
    TableColumn("total_p95_ms", "", _of(lambda one: one.total.p95)),
    TableColumn("total_p99_ms", "p99", _of(lambda one: one.total.p99)),
    TableColumn("total_min_ms", "", _of(lambda one: one.total.min)),
    TableColumn("total_max_ms", "", _of(lambda one: one.total.max)),
    TableColumn("total_mean_ms", "", _of(lambda one: one.total.mean)),
    TableColumn("total_std_ms", "", _of(lambda one: one.total.std)),
    TableColumn("frames_per_second", "frames/s", _of(lambda one: one.frames_per_second)),
    *(_stage(stage) for stage in STAGES),
    TableColumn("load_cold_ms", "cold ms", _load(cold=True)),
    TableColumn("load_warm_ms", "warm ms", _load(cold=False)),
    TableColumn("first_call_ms", "first ms", _of(lambda one: one.first_call)),
    TableColumn("engine_build_ms", "", _of(_build)),
    TableColumn("memory_peak_bytes", "peak MB", _of(lambda one: one.peak_memory), _megabytes),
    TableColumn("memory_steady_bytes", "", _of(lambda one: one.memory.steady if one.memory else None)),
    TableColumn("memory_device_bytes", "", _of(lambda one: one.memory.device if one.memory else None)),
    TableColumn("size_bytes", "size MB", _of(lambda one: one.subject.bytes), _megabytes),
    TableColumn("proof", "", _of(lambda one: one.subject.proof)),
    TableColumn("agreement", "found", _of(lambda one: one.subject.agreement), percent),
    TableColumn("accuracy_metric", "", _of(lambda one: one.accuracy.metric if one.accuracy else None)),
    TableColumn("accuracy", "accuracy", _of(lambda one: one.accuracy.value if one.accuracy else None), percent),
    TableColumn("accuracy_data", "", _of(lambda one: one.accuracy.data if one.accuracy else None)),
    TableColumn("spread", "spread", _of(lambda one: one.spread), percent),
    TableColumn("rounds", "", _of(lambda one: len(one.rounds))),
    TableColumn("calls", "", _of(lambda one: one.total.count)),
    TableColumn("outliers", "", _of(lambda one: one.total.outliers)),
    TableColumn("cpu_ms", "", _of(lambda one: one.processor.milliseconds if one.processor else None)),
    TableColumn("cpu_cores", "", _of(lambda one: one.processor.cores if one.processor else None)),
    TableColumn("process_threads", "", _of(lambda one: one.processor.threads if one.processor else None)),
    TableColumn("first_token_p50_ms", "token ms", _of(lambda one: one.first_token.p50 if one.first_token else None)),
    TableColumn("tokens_per_second", "tokens/s", _of(lambda one: one.tokens_per_second)),
    TableColumn("sustained_steady_ms", "", _of(lambda one: one.sustained.steady if one.sustained else None)),
    TableColumn("sustained_drift", "drift", _of(lambda one: one.sustained.drift if one.sustained else None), percent),
    TableColumn("roofline_share", "", _of(lambda one: one.roofline.share if one.roofline else None)),
    TableColumn("time", "", _of(lambda one: one.time)),
    TableColumn("edgekit", "", _of(lambda one: one.edgekit)),
    TableColumn("bundle_sha256", "", _of(lambda one: one.subject.sha256)),
    TableColumn("session", "", _of(lambda one: one.session)),
    TableColumn("id", "", _of(lambda one: one.id)),
)
"""All that is told, in order. Times are in ms, sizes in bytes, shares of one."""


def rows(profiles: Sequence[Profile]) -> list[dict[str, Value]]:
    """The figures of each profile by the names of `COLUMNS`, by task, the fastest first."""
    return [{column.name: column.read(one) for column in COLUMNS} for one in named(profiles)]


DISPENSABLE = (
    "first_call_ms",
    "load_warm_ms",
    "post_p50_ms",
    "pre_p50_ms",
    "total_p90_ms",
    "memory_peak_bytes",
    "load_cold_ms",
    "frames_per_second",
    "track_p50_ms",
    "vision_p50_ms",
    "decode_p50_ms",
    "prefill_p50_ms",
    "sustained_drift",
    "inference_p50_ms",
)
"""Columns that a narrow terminal drops, in this order."""


@dataclass(frozen=True)
class ProfileTable:
    """Titles, lines of plain text (escape them for rich, as `edgekit.cli._reports.escape` does), and the titles of the
    columns that hold numbers."""

    columns: list[str]
    rows: list[list[str]]
    right: list[str]


def terminal(profiles: Sequence[Profile], width: int = 0) -> ProfileTable:
    """The table for a terminal: columns with a title, without those that are empty for all profiles.

    Args:
        profiles: in any order.
        width: characters in a line, `DISPENSABLE` columns are left out until the rest fits; 0: as many as it takes.
    """
    figures = rows(profiles)
    remarks = any(line["remark"] for line in figures)
    shown = [
        column
        for column in COLUMNS
        if (column.title and any(line[column.name] is not None for line in figures))
        or (column.name == "remark" and remarks)
    ]
    for name in DISPENSABLE:
        if width and sum(_width(column, figures) for column in shown) > width:
            shown = [column for column in shown if column.name != name]
    numeric = [one for one in shown if not any(isinstance(line[one.name], str) for line in figures)]
    return ProfileTable(
        columns=[column.title for column in shown],
        rows=[[column.text(line[column.name]) for column in shown] for line in figures],
        right=[column.title for column in numeric],
    )


def _width(column: TableColumn, figures: Sequence[dict[str, Value]]) -> int:
    """Of a column with the space beside it, as rich draws it."""
    return 3 + max(len(column.title), *(len(column.text(line[column.name])) for line in figures), 0)


def write_csv(profiles: Sequence[Profile], stream: TextIO) -> None:
    """Write `COLUMNS` of each profile as CSV (RFC 4180), with a head; what is not known is empty.

    Numbers are written in full: reading them gives the same figures. Text that a spreadsheet would take for a formula
    has an apostrophe before it.

    Args:
        profiles: in any order.
        stream: of text, opened with ``newline=""``.
    """
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(column.name for column in COLUMNS)
    for line in rows(profiles):
        writer.writerow("" if value is None else _cell(value) for value in line.values())


def _cell(value: str | int | float) -> str | int | float:
    """A value that a spreadsheet takes for no formula: text that begins like one has an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
