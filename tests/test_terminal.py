"""What others named or said reaches a terminal as text: no escape sequence, no bidirectional control."""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner
from sample_bundles import write_bundle

import edgekit.cli as cli
from edgekit.cli import _progress, _reports
from edgekit.cli._options import console
from edgekit.cli._terminal import say, shown

EVIL = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp\u2066\x08\r\x7f\u2028\udcff.png"
PLAIN = "a\\x1b[2J\\x1b]0;title\\x07\\u009b31m\\u202egnp\\u2066\\x08\\x0d\\u007f\\u2028\\udcff.png"


def steering(text: str) -> list[str]:
    """What of a text is no text, by Unicode's own categories: controls, surrogates, line ends, and Bidi_Control."""
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return [
        one
        for one in text
        if one not in "\n\t"
        and (
            unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")
            or unicodedata.bidirectional(one) in bidi
            or one in "\u061c\u200e\u200f"
        )
    ]


def test_everything_that_steers_is_written_out_and_nothing_else_is() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert steering(every)
    assert steering(shown(every)) == []
    kept = "".join(one for one in every if not steering(one))
    assert shown(kept) == kept
    assert shown(EVIL) == PLAIN


def test_json_stays_the_same_data() -> None:
    import msgspec

    evil = EVIL.replace("\udcff", "")
    for text in (json.dumps({"name": EVIL}), json.dumps({"name": evil}, ensure_ascii=False)):
        assert json.loads(shown(text)) == json.loads(text)
    encoded = msgspec.json.format(msgspec.json.encode({"name": evil}), indent=2).decode()
    assert json.loads(shown(encoded)) == {"name": evil}


def test_every_way_out_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    say(EVIL, err=True, end=False)
    console().print(EVIL, markup=False)
    console(stderr=True).print(EVIL, markup=False)
    _reports.table(["name"], [[_reports.escape(EVIL)]])
    with _progress.progress_bars({EVIL: 1.0}) as watch:
        watch(EVIL, EVIL, 0.5)
    with pytest.raises(SystemExit):
        cli.main(["run", "bundle", f"--{EVIL}"])
    for debug in ([], ["--debug"]):
        with pytest.raises(SystemExit):
            cli.main([*debug, "info", EVIL])
    out, err = capsys.readouterr()
    assert steering(out + err) == []
    assert out.count(PLAIN) == 3
    assert err.count("\\x1b[2J") == 8


def test_a_progress_text_is_no_markup() -> None:
    """A device says what is done there; a closing tag in it must not be an error."""
    from rich.console import Console

    with pytest.MonkeyPatch.context() as patch:
        drawn = Console(file=io.StringIO(), force_terminal=True)
        patch.setattr(_progress, "console", lambda stderr: drawn)
        with _progress.progress_bars() as watch:
            watch("[/red]", "[/nothing] [bold]", 0.5)
            drawn.print("done")


def test_nothing_is_printed_past_it() -> None:
    """One place where text leaves; a command that echoes by itself would pass it by."""
    for path in sorted(Path(cli.__file__).parent.glob("*.py")):
        if path.name != "_terminal.py":
            assert not re.search(r"click\.s?echo|sys\.stdout| Console\(", path.read_text()), path


def test_commands_show_what_a_bundle_and_a_file_are_called(tmp_path: Path) -> None:
    name = "bad\x1b[2J\u202e"
    bundle = write_bundle(tmp_path / name, name=name)
    for arguments in (["info", str(bundle.path)], ["verify", str(bundle.path)], ["run", str(bundle.path), "x\x1b[2J"]):
        done = CliRunner().invoke(cli.edgekit, arguments)
        assert steering(done.output) == []
    assert "bad\\x1b[2J\\u202e" in CliRunner().invoke(cli.edgekit, ["info", str(bundle.path)]).output
    told = CliRunner().invoke(cli.edgekit, ["info", str(bundle.path), "--json"]).output
    assert json.loads(told)["path"] == str(bundle.path)
