"""Names on the command line: one word per thing, the former words that work and tell, and those of other tools."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_conversions import write_pictures
from tiny_onnx import write_tiny_bundle

from edgekit.cli import edgekit as group
from edgekit.cli import main
from edgekit.cli._command import Command

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def cli(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return (int(ended.value.code or 0), *capfd.readouterr())

    return cli


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra 'convert'")
    return write_tiny_bundle(tmp_path_factory.mktemp("former") / "tiny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("photos"), 2)


# ---- commands ----


@pytest.mark.parametrize(
    ("alias", "name"), [("predict", "run"), ("val", "evaluate"), ("export", "convert"), ("benchmark", "profile")]
)
def test_other_tools_names_are_the_same_commands(alias: str, name: str, cli: Cli) -> None:
    assert group.get_command(None, alias) is group.get_command(None, name)  # type: ignore[arg-type]
    shown = cli("--help")[1]
    assert f"{alias} for {name}" in re.sub(r"\s+", " ", shown.partition("Aliases:")[2])
    assert not re.search(rf"^  {alias} ", shown, re.MULTILINE), "one line for all of them, not a row each"
    assert cli(alias, "--help")[1].splitlines()[0].startswith(f"Usage: edgekit {alias} ")


def test_there_is_no_other_alias(cli: Cli) -> None:
    assert group.get_command(None, "detect") is None  # type: ignore[arg-type]
    assert cli("detect", "--help")[0] == 2


# ---- options ----


@pytest.mark.parametrize(
    ("former", "now"),
    [
        (("--device", "cpu"), ("--unit", "cpu")),
        (("--device=cpu",), ("--unit=cpu",)),
        (("--conf", "0.9"), ("--score", "0.9")),
    ],
)
def test_run_knows_former_names_and_tells(
    former: tuple[str, ...], now: tuple[str, ...], cli: Cli, tiny: Path, photos: Path
) -> None:
    code, out, err = cli("run", tiny, photos, *former, "--json")
    option, current = former[0].partition("=")[0], now[0].partition("=")[0]
    assert (code, err) == (0, f"edgekit: {option} is called {current} now\n")
    new, found, quiet = cli("run", tiny, photos, *now, "--json")
    assert (new, quiet) == (0, "")
    assert detections(out) == detections(found)


def detections(text: str) -> list[Any]:
    return [json.loads(line)["detections"] for line in text.splitlines()]


def test_words_behind_a_double_dash_are_left_alone(cli: Cli, tiny: Path) -> None:
    code, _, err = cli("run", tiny, "--", "--device")
    assert code == 2
    assert "is called" not in err


EVERY_UNIT = ("ask", "build", "caption", "embed", "evaluate", "index", "match", "run", "search")
EVERY_HOST = ("recommend",)


@pytest.mark.parametrize("name", [*EVERY_UNIT, *EVERY_HOST])
def test_device_has_become_a_unit_or_a_host_everywhere(name: str) -> None:
    command = group.get_command(None, name)  # type: ignore[arg-type]
    assert isinstance(command, Command)
    assert command.renamed["--device"] == ("--on" if name in EVERY_HOST else "--unit")
    assert command.renamed["--device"] in {option for one in command.params for option in one.opts}


def test_no_command_has_an_option_by_a_former_name() -> None:
    former = {"--device", "--conf", "--minutes"}
    for command in every_command(group):
        assert not former & {option for one in command.params for option in one.opts}, command.name


def test_profile_takes_a_host_by_on(cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_DEVICES", str(tmp_path / "devices.json"))
    for command in (("profile", tiny), ("benchmark", tiny), ("profile", "compare", tiny, tiny)):
        code, _, err = cli(*command, "--device", "pi9")
        assert code == 2
        assert err.startswith("edgekit: --device is called --on now\n")
        assert "pi9" in err.splitlines()[1]
        assert "is called" not in cli(*command, "--on", "pi9")[2]


@pytest.fixture
def labels(tmp_path: Path, tiny: Path, photos: Path, cli: Cli) -> Path:
    """What the tiny model finds, as labels of the photos."""
    images, annotations = [], []
    for number, line in enumerate(cli("run", tiny, photos, "--json")[1].splitlines()):
        found = json.loads(line)
        images.append({"id": number, "file_name": Path(found["image"]).name, "width": 64, "height": 64})
        for one in found["detections"]:
            left, top, right, bottom = one["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": one["class_id"],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                }
            )
    path = tmp_path / "labels.json"
    categories = [{"id": 0, "name": "red"}, {"id": 1, "name": "green"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_evaluate_takes_labels_and_data(cli: Cli, tiny: Path, photos: Path, labels: Path) -> None:
    pytest.importorskip("pycocotools", reason="needs the extra 'convert'")
    code, out, err = cli("evaluate", tiny, "--labels", labels, "--data", photos, "--json")
    assert (code, err) == (0, "")

    def figures(text: str) -> dict[str, Any]:
        return {key: value for key, value in json.loads(text).items() if not key.endswith("_ms")}

    former = (
        (
            ("--data", labels, "--images", photos),
            ("--images is called --data", "--data ANNOTATIONS is called --labels"),
        ),
        (("--labels", labels, "--images", photos), ("--images is called --data now",)),
    )
    for arguments, told in former:
        code, again, err = cli("val", tiny, *arguments, "--json")
        assert (code, len(err.splitlines())) == (0, len(told))
        assert all(words in err for words in told)
        assert figures(again) == figures(out)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "evaluate needs --labels: COCO json"),
        (("--labels", "a.json", "--data", "one", "--data", "two"), "--data two: the images are in one place"),
    ],
)
def test_evaluate_refuses_what_it_cannot_mean(arguments: tuple[str, ...], says: str, cli: Cli, tiny: Path) -> None:
    code, _, err = cli("evaluate", tiny, *arguments)
    assert code == 2
    assert says in err


def test_finetune_is_a_time_like_all_others(cli: Cli) -> None:
    code, _, err = cli("convert", "no-such.pt2", "--target", "onnx", "--finetune", "minutes=10")
    assert code == 2
    assert err.startswith("edgekit: --finetune minutes=10 is written --finetune 10min now\n")


@pytest.mark.parametrize("former", ["--no-islands", "--no-equalisation"])
@pytest.mark.parametrize("command", [("convert", "x.pt2", "--target", "onnx"), ("calibrate", "x.pt2", "--data", "x")])
def test_former_switches_of_methods(former: str, command: tuple[str, ...], cli: Cli) -> None:
    code, _, err = cli(*command, former)
    assert code == 2
    assert err.splitlines()[0] in (
        "edgekit: --no-islands is called --no-float-fallback now",
        "edgekit: --no-equalisation is called --no-equalization now",
    )
    assert "error: " in err.splitlines()[1]


@pytest.mark.parametrize(
    ("given", "says"), [("1.5", "'1.5' is more than 1"), ("200%", "'200%' is more than 1"), ("-1", "is not a number")]
)
def test_max_drop_is_a_share(given: str, says: str, cli: Cli) -> None:
    code, _, err = cli("convert", "x.pt2", "--target", "onnx", f"--max-drop={given}")
    assert code == 2
    assert says in err


# ---- help ----


def every_command(within: Any) -> Any:
    for name in within.list_commands(None):
        command = within.get_command(None, name)
        yield from every_command(command) if hasattr(command, "list_commands") else (command,)


def test_every_option_is_in_one_group_of_the_help() -> None:
    grouped = [one for one in every_command(group) if isinstance(one, Command) and one.groups]
    assert len(grouped) >= 5
    for command in grouped:
        named = [name for names in command.groups.values() for name in names]
        shown = {one.name for one in command.params if one.param_type_name == "option" and not one.hidden}
        assert sorted(named) == sorted(shown), command.name


def test_help_of_convert_is_in_groups(cli: Cli) -> None:
    shown = cli("convert", "--help")[1]
    titles = re.findall(r"^(\w+):$", shown, re.MULTILINE)
    assert titles == ["Targets", "Model", "Images", "Quantisation", "Checks", "Output"]
    assert cli("info", "--help")[1].count("Options:") == 1
