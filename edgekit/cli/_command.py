"""A command that shows its options in groups and knows the former names of options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from edgekit.cli._terminal import say

UNIT = {"--device": "--unit"}
"""The former name of the engine's unit."""

ON = {"--device": "--on"}
"""The former name of a host over SSH, where a command takes one."""


class Command(click.Command):
    """A click command with two things more.

    Args:
        groups: titles for ``--help``, each with the names of its parameters in order; what is in none comes last.
        renamed: former names of options and what they are called now. The former ones work, and tell.
    """

    def __init__(
        self,
        *args: Any,
        groups: Mapping[str, Sequence[str]] | None = None,
        renamed: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.groups, self.renamed = dict(groups or {}), dict(renamed or {})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the names of today in place of the former ones."""
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*map(self._today, args[:end]), *args[end:]])

    def _today(self, word: str) -> str:
        option, equals, value = word.partition("=")
        if option not in self.renamed:
            return word
        tell(f"{option} is called {self.renamed[option]} now")
        return self.renamed[option] + equals + value

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options under their titles."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        rows = {option.name: record for option in options if (record := option.get_help_record(ctx))}
        sections = {title: [rows.pop(name) for name in names if name in rows] for title, names in self.groups.items()}
        own = self.get_help_option(ctx)
        if sections and own is not None and own.name in rows:
            list(sections.values())[-1].append(rows.pop(own.name))
        for title, lines in {**sections, "Other" if sections else "Options": list(rows.values())}.items():
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)


def tell(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    say(f"edgekit: {text}", err=True)
