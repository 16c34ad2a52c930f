"""HOST: a report as one HTML page that needs nothing else: its frame, tables and figures.

What is written in a page is escaped unless it is `Html`, so that no name of a layer or file can become markup. The page
allows itself no connection and no script but its own (Content-Security-Policy), and says everything without the script,
which sorts and filters tables. It serves any report; `edgekit.report.charts` draws for it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.errors import UsageError

STYLE = Path(__file__).with_suffix(".css")
SCRIPT = Path(__file__).with_suffix(".js")

MANY = 12
"""A table of more rows than this has a field to filter it."""

_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that neither HTML nor XML may hold, not even as an entity."""


class Html(str):
    """Markup, to be written as it stands."""

    __slots__ = ()


def escape(value: object) -> Html:
    """Text as markup: ``<``, ``&`` and quotes escaped, illegal characters replaced; `Html` as it stands."""
    return value if isinstance(value, Html) else Html(html.escape(_ILLEGAL.sub("\ufffd", str(value))))


def join(*parts: object, by: str = "") -> Html:
    """Escaped parts in one piece, with ``by`` (text) between them."""
    return Html(escape(by).join(escape(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. In names of attributes a leading ``_`` goes and others become ``-``; None and False leave one out."""
    given = (
        f' {key.lstrip("_").replace("_", "-")}="{escape("" if value is True else value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    end = "" if name == "input" else f"{join(*children)}</{name}>"
    return Html(f"<{name}{''.join(given)}>{end}")


def bullets(sentences: Iterable[object]) -> Html:
    """An unordered list."""
    return tag("ul", *(tag("li", sentence) for sentence in sentences))


def facts(entries: Iterable[tuple[str, str, str]]) -> Html:
    """Large figures, each with its name over it and a remark (or nothing) under it: name, figure, remark."""
    return tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", figure, tag("span", remark) if remark else ""))
            for name, figure, remark in entries
        ),
        _class="facts",
    )


def command(line: str) -> Html:
    """A command line as code; an option is never parted from its dashes where the line has to break."""
    return tag("code", join(*(tag("span", word, _class="word") for word in line.split()), by=" "))


def legend(keys: Iterable[tuple[str, str]]) -> Html:
    """What the colours of a chart mean: class of the key (``chosen``, ``seen``, ``flag``), and words."""
    swatches = (tag("span", tag("span", _class=f"key {kind}"), words) for kind, words in keys)
    return tag("p", *swatches, _class="keys soft small")


def filters(facets: Mapping[str, Mapping[str, int]], what: str) -> Html:
    """Chips that hide all over the page what is marked with another value: rows of tables and parts of charts.

    It shows itself only where the page's script runs. An element is subject to it that has ``data-mark`` (which tells
    what it stands for) and ``data-FACET`` for every facet; ``data-group`` goes when everything marked in it has gone.

    Args:
        facets: name of a facet (one lower-case word) -> its values with their counts; of one value it is left out.
        what: what is counted, in the plural.
    """
    groups = [
        tag(
            "fieldset",
            tag("legend", facet),
            *(
                tag("label", tag("input", type="checkbox", name=facet, value=value), value, tag("span", count))
                for value, count in values.items()
            ),
        )
        for facet, values in facets.items()
        if len(values) > 1
    ]
    if not groups:
        return Html("")
    said = tag("p", tag("output", data_what=what), tag("button", "Show all", type="button"), _class="soft small")
    return tag("div", *groups, said, _class="filters", role="group", aria_label=f"Filter {what}", hidden=True)


@dataclass(frozen=True)
class Section:
    """A part of a page. ``key`` is its anchor, ``hint`` a line beside the title; ``folded`` shows only these two until
    it is opened."""

    key: str
    title: str
    body: Html
    hint: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Cell:
    """What a table shows, and the value that it is sorted by (None: unknown, sorted last)."""

    content: object
    value: float | str | None = ""
    kind: str = ""
    """Class of the cell: ``number``, ``name``, ``chart``, ``long``."""


@dataclass(frozen=True)
class Column:
    """A column: ``numeric`` is sorted as numbers, at first in the order ``first``."""

    title: str
    numeric: bool = False
    first: str = "ascending"
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """Cells of one line of a table; ``flagged`` lines are highlighted. The first cell names the line.

    ``marks`` are attributes of the line (as `tag` takes them), for the `filters` of the page.
    """

    cells: Sequence[Cell]
    flagged: bool = field(default=False, kw_only=True)
    marks: Mapping[str, str] = field(default_factory=dict, kw_only=True)


def table(label: str, columns: Sequence[Column], rows: Sequence[Row], note: object = "") -> Html:
    """A table in a scrolling box, sorted by a click on a column, and with a filter where it has more than `MANY` rows.

    Args:
        label: what it shows, for those who do not see it.
        columns: as many as every row has cells.
        rows: in the order that is shown first.
        note: a line under it.
    """
    head = tag("tr", *(_head(column) for column in columns))
    body = (
        tag(
            "tr",
            *(_cell(cell, name=not number) for number, cell in enumerate(row.cells)),
            _class=_flag(row.flagged),
            **row.marks,
        )
        for row in rows
    )
    inner = tag(
        "table",
        tag("thead", head),
        tag("tbody", *body),
        _class="sortable",
        data_filter="Filter" if len(rows) > MANY else None,
        aria_label=label,
    )
    box = tag("div", inner, _class="scroll", tabindex=0, role="region", aria_label=label)
    return tag("div", box, tag("p", note, _class="note") if note else "")


def _head(column: Column) -> Html:
    kind = column.kind or ("number" if column.numeric else None)
    return tag("th", column.title, scope="col", _class=kind, data_numeric=column.numeric, data_first=column.first)


def _cell(cell: Cell, *, name: bool) -> Html:
    value = "" if cell.value is None else cell.value
    if isinstance(value, float):
        value = "" if math.isnan(value) else repr(max(min(value, 1e300), -1e300))  # a script reads no "inf"
    return tag("th" if name else "td", cell.content, scope="row" if name else None, _class=cell.kind, data_value=value)


def _flag(flagged: bool) -> str | None:
    return "flagged" if flagged else None


def page(title: str, sections: Sequence[Section], *, lead: object = "", foot: object = "", tools: object = "") -> str:
    """A whole HTML page: light or dark as the reader's system is, for screens, phones and paper.

    Args:
        title: heading and title of the window.
        sections: in order; the page links to each.
        lead: a line under the heading.
        foot: a line at the end.
        tools: what stays in sight above the sections: `filters`.
    """
    style, script = STYLE.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    links = (tag("a", section.title, href=f"#{section.key}") for section in sections)
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',  # or the browser would ask a server for one
            tag("title", title),
            f"<style>{style}</style></head><body>",
            tag("header", tag("h1", title), tag("p", lead, _class="lead"), tag("nav", *links, aria_label="Sections")),
            "<main>",
            escape(tools),
            *(_section(section) for section in sections),
            "</main>",
            tag("footer", foot),
            f"<script>{script}</script></body></html>\n",
        )
    )


def _section(section: Section) -> Html:
    heading = join(tag("h2", section.title), tag("p", section.hint, _class="hint") if section.hint else "")
    if section.folded:
        return tag("details", tag("summary", heading), section.body, id=section.key, _class="section")
    return tag("section", heading, section.body, id=section.key)


def write_text(text: str, path: Path) -> None:
    """Write a report's file, its folder too.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give another path for the report") from error


def number(value: float | None, digits: int = 3) -> str:
    """A number as one reads it: ``0.0123``, ``12,300``, ``1.2e-07``; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits}g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float | None) -> str:
    """A share of one in per cent, with three digits."""
    return number(share) if share is None or not math.isfinite(share) else f"{number(share * 100)} %"
