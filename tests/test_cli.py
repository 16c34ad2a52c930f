"""The command line: names, options, exit codes, output for machines, and errors that a person can act on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sample_bundles import contents
from tiny_conversions import PRECISIONS, SOURCE, TARGETS, Converted, write_pictures
from tiny_conversions import edgekit as child
from tiny_models import CLASSES, SIZE, picture
from tiny_onnx import write_tiny_bundle

from edgekit import __version__, registry
from edgekit.cli import edgekit as group
from edgekit.cli import main
from edgekit.runtimes.bundle.manifest import MANIFEST
from edgekit.runtimes.model import load

# fmt: off
COMMANDS = (
    "amend", "app", "ask", "build", "calibrate", "caption", "convert", "demo", "device", "embed", "evaluate",
    "evidence", "index", "info", "inspect", "match", "profile", "recommend", "run", "search", "selfcheck", "targets",
    "toolchain", "verify",
)
EVERY_TARGET = [
    "coreai", "coreml", "ethosu", "executorch", "imx500", "litert", "mnn", "ncnn", "onnx", "openvino", "qnn", "rknn",
    "tensorrt", "web",
]
# fmt: on


@dataclass(frozen=True)
class Said:
    """What a command line gave."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in this process."""

    def cli(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return cli


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that finds coloured cells."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra 'convert'")
    return write_tiny_bundle(tmp_path_factory.mktemp("cli") / "tiny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of 64x64."""
    return write_pictures(tmp_path_factory.mktemp("photos"), 4)


# ---- names ----


def test_the_commands_are_those_that_were_agreed_on(cli: Cli) -> None:
    assert registry.names("edgekit.cli") == COMMANDS
    shown = cli("--help")
    assert shown.code == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", shown.out, re.MULTILINE)


OPTIONS = {
    "ask": "--also --beams --max-new-tokens --json --threads --unit --strict",
    "caption": "--prompt --style --stream --beams --sample --seed --stop --json",
    "embed": "-o --json",
    "index": "-o",
    "match": "--also --json",
    "search": "--top --json",
    "calibrate": "--data --proof-data -o --sensitivity --finetune --html --choose --ranges --no-float-fallback --json",
    "convert": "--plan --recipe --max-drop --labels --finetune --choose "
    "--target --precision --data --contract --weights -o --out -j --jobs --json --gate --no-gate --dry-run --trust"
    " --no-golden",
    "amend": "--score --iou --max-detections --class --tracker-option --import --json",
    "run": "--size --score --iou --track --track-option --every --save --video --mot --import --json"
    " --threads --unit --strict",
    "verify": "--against --data --import --json",
    "evaluate": "--labels --data --html --track --track-option --fps --class --import --json",
    "evidence": "",
    "app": "",
    "selfcheck": "--unit --threads --import --json",
    "info": "--json",
    "inspect": "--contract-out --image --out --size --weights --trust --import --json",
    "targets": "--json",
    "demo": "--target --precision --scenes -o --json",
    "build": "--unit --strict --json",
    "toolchain": "",
    "device": "",
    "profile": "",
    "recommend": "--on --max-latency --min-map --min-agreement --max-size --max-memory --prefer --threads --labels"
    " --budget --source --target --precision --size --data -o --store --import --json",
}
GROUPS = {
    "toolchain": {"list": "--json", "install": "", "remove": "", "check": "--json"},
    "device": {
        "add": "--identity --known-hosts --python --folder",
        "list": "--json",
        "check": "--json",
        "setup": "--engine --wheels",
        "remove": "--purge",
    },
    "evidence": {"add": ""},
    "app": {"web": "--out --serve --port", "ios": "--out --package", "android": "--out"},
}
PROFILE = {
    "measure": "--on --rounds --seconds --threads --unit --strict --data --track --batch --streams --sustain"
    " --tokens --prompt --labels --csv --html --store --import --json",
    "compare": "--fail-if-slower --on --rounds --store --import --json",
    "history": "--csv --html --on --name --last --store --json",
    "import": "--on --store --json",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_options(cli: Cli, name: str) -> None:
    shown = cli(name, "--help")
    assert shown.code == 0
    assert shown.out.startswith(f"Usage: edgekit {name} [OPTIONS]")
    assert cli(name, "-h") == shown
    given = {option for parameter in group.get_command(None, name).params for option in parameter.opts}  # type: ignore[arg-type,union-attr]
    for option in OPTIONS[name].split():
        assert option in given
        assert option in shown.out


@pytest.mark.parametrize("group_name", GROUPS)
def test_every_command_of_a_group_explains_itself(cli: Cli, group_name: str) -> None:
    shown = cli(group_name, "--help").out
    for name, options in GROUPS[group_name].items():
        assert re.search(rf"^  {name} +\w", shown, re.MULTILINE)
        assert all(option in cli(group_name, name, "--help").out for option in options.split())


def test_profile_explains_measuring_and_names_its_other_commands(cli: Cli) -> None:
    shown = cli("profile", "--help").out
    assert all(option in shown for option in PROFILE["measure"].split())
    for name in ("compare", "history"):
        assert f"edgekit profile {name} [OPTIONS]" in shown
        assert all(option in cli("profile", name, "--help").out for option in PROFILE[name].split())


def test_arguments_stand_where_they_were_agreed_to(cli: Cli) -> None:
    usage = {name: cli(name, "--help").out.splitlines()[0] for name in COMMANDS}
    assert usage["convert"].endswith("SOURCE")
    assert usage["run"].endswith("BUNDLE INPUTS...")
    assert usage["evaluate"].endswith("BUNDLE...")
    assert usage["ask"].endswith("BUNDLE QUESTION INPUTS...")
    assert usage["match"].endswith("BUNDLE TEXT INPUTS...")
    assert usage["search"].endswith("BUNDLE INDEX QUERY")
    for name in ("caption", "index"):
        assert usage[name].endswith("BUNDLE INPUTS...")
    for name in ("verify", "info"):
        assert usage[name].endswith("BUNDLE")


def test_the_version_is_the_packages(cli: Cli) -> None:
    assert cli("--version").out.strip() == f"edgekit, version {__version__}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'"),
        (["convert"], "Missing argument 'SOURCE'"),
        (["convert", "x"], "Missing option '--target'"),
        (["run", "x"], "Missing argument 'INPUTS...'"),
        (["verify", "x"], "Missing option '--against'"),
        (["evaluate", "x"], "evaluate needs --labels: COCO json, a YOLO data.yaml"),
        (["run", "x", "y", "--score", "2"], "2.0 is not in the range 0<=x<=1"),
        (["run", "x", "y", "--threads", "-1"], "-1 is not in the range x>=0"),
        (["convert", "x", "--target", "onnx", "-j", "0"], "0 is not in the range x>=1"),
        (["info", "x", "--wings"], "No such option '--wings'"),
    ],
)
def test_wrong_use_exits_with_2(cli: Cli, arguments: list[str], message: str) -> None:
    said = cli(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert message.replace("'", "") in said.err.replace("'", "").replace(": --", " --")
    assert "Traceback" not in said.err


# ---- targets, info ----


def test_targets_for_machines_and_people(cli: Cli) -> None:
    data = json.loads(cli("targets", "--json").out)
    assert [entry["target"] for entry in data] == EVERY_TARGET
    for entry in data:
        assert set(entry["precisions"]) <= {"fp32", "fp16", "int8", "w8a8", "w8a32"}
        assert isinstance(entry["available"], bool)
        assert entry["available"] == (not entry["missing"])
    shown = cli("targets")
    assert shown.code == 0
    for entry in data:
        (row,) = [line for line in shown.out.splitlines() if line.startswith(f" {entry['target']} ")]
        assert entry["engine"] in row
        assert entry["summary"].split()[0] in row  # the rest may be on the next line
    (rknn,) = json.loads(cli("targets", "rknn", "--json").out)
    assert rknn["options"]["platform"] == "rk3588"
    assert "rknn.platform" in cli("targets", "rknn").out
    assert {entry["target"] for entry in data if entry["several"]} == {"onnx", "openvino", "litert", "tensorrt"}
    assert "litert takes several batches and input sizes in one bundle: --batch 1,4" in cli("targets", "litert").out
    assert "several" not in cli("targets", "ncnn").out


@pytest.mark.convert
def test_info_for_machines_is_the_manifest(cli: Cli, converted: Converted) -> None:
    path = converted.path("openvino", "int8")
    data = json.loads(cli("info", path, "--json").out)
    assert data.pop("path") == str(path)
    assert data == json.loads((path / MANIFEST).read_bytes())


@pytest.mark.convert
def test_info_for_people_names_what_matters(cli: Cli, converted: Converted) -> None:
    said = cli("info", converted.path("openvino", "int8"))
    assert said.code == 0
    for part in (
        "detector: openvino int8, 0.0",
        "task detect, 2 classes: red, green",
        "input 64x64 (height x width) rgb, stretch, interpolation linear",
        "values (pixel * 0.003921568627 - mean) / std; mean 0, 0, 0; std 1, 1, 1",
        "decoder anchor_free: strides 16; reg_max 1",
        "thresholds: score 0.25, NMS per class above IoU 0.6, at most 300 per image",
        "input 0: ",
        "output 0: boxes float32 (1, 4, 4, 4) nchw is boxes, level 0",
        "output 1: classes float32 (1, 2, 4, 4) nchw is classes, level 0",
        "openvino was set to: CPU, INFERENCE_PRECISION_HINT f32",
        f"made from factory {SOURCE} (sha256 ",
        "calibrated on 3",
        "executed by openvino on ",
        "output boxes: cosine ",
        "gate (matched >= 0.9 at IoU 0.5, drift <= 0.06, extra <= 0.12, small >= 0.8, medium >= 0.85, large >= ",
        "0.85): passed",
        "negative control (each channel of the raw outputs at its least value, as if the network saw nothing): failed",
        "by size: small ",
        "\nproven\n",
    ):
        assert part in said.out


# ---- convert ----


@pytest.mark.nightly
@pytest.mark.convert
def test_all_has_a_row_for_every_target(photos: Path, tmp_path: Path) -> None:
    """A precision that one target has: the other twelve say why they are left out."""
    said = child(
        "convert", SOURCE, "--target", "all", "--precision", "w8a8", "--data", photos, "--no-gate", "-o", tmp_path
    )
    rows = [line.split() for line in said.stdout.splitlines() if line.strip().startswith(tuple(EVERY_TARGET))]
    assert [row[0] for row in rows] == EVERY_TARGET, said.stderr
    assert rows[0][1] == "w8a8"
    left = said.stdout.replace("\n", " ")
    assert "has no w8a8; it has: int8" in left
    assert left.count("has no w8a8") + left.count("toolchain missing") + left.count("not possible on") == 12


@pytest.mark.convert
def test_convert_for_machines(converted: Converted) -> None:
    document = converted.document
    assert list(document) == ["bundles", "failed", "skipped", "seconds"]
    assert document["failed"] == document["skipped"] == []
    wanted = [(target, precision) for target in TARGETS for precision in PRECISIONS]
    assert [(entry["target"], entry["precision"]) for entry in document["bundles"]] == wanted
    for entry in document["bundles"]:
        assert entry["ok"] is True
        assert Path(entry["path"]) == converted.path(entry["target"], entry["precision"])
        manifest = json.loads((Path(entry["path"]) / MANIFEST).read_bytes())
        assert entry["evidence"] == manifest["evidence"]
        model = [file["bytes"] for file in manifest["files"] if not file["path"].startswith("golden/")]
        assert entry["bytes"] == sum(model) < sum(file["bytes"] for file in manifest["files"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "tpu"], f"target 'tpu' is not one of: {', '.join(EVERY_TARGET)}"),
        (["--target", "onnx", "--precision", "fp8"], "--precision 'fp8' is not one of: fp16, fp32, int8"),
        (["--target", "onnx", "--precision", "int8"], "int8 needs calibration images like those the device will see"),
        (["--target", "onnx", "--gate", "speed=1"], "--gate 'speed' is not one of: iou, matched, score_drift, extra"),
        (["--target", "onnx", "--gate", "matched"], "--gate matched: '' is not a number"),
        (["--target", "onnx", "--gate", "matched=all"], "--gate matched=all: 'all' is not a number"),
        (["--target", "onnx", "--gate", "matched=nan"], "--gate matched=nan: must be 0..1"),
        (["--target", "onnx", "--gate", "matched=95"], "--gate matched=95: must be 0..1"),
        (["--target", "onnx", "--gate", "iou=-1"], "--gate iou=-1: must be 0..1"),
    ],
)
def test_convert_refuses_before_it_starts(cli: Cli, tmp_path: Path, arguments: list[str], message: str) -> None:
    said = cli("convert", SOURCE, *arguments, "-o", tmp_path / "out")
    assert said.code == 2
    assert said.err.startswith(f"edgekit: error: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.convert
@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("nothing_here:model", [], "nothing_here:model: cannot import 'nothing_here'"),
        ("what is this", [], "'what is this': edgekit cannot tell what kind of model this is; give one of: "),
        (SOURCE, ["--contract", "nowhere.yaml"], "--contract nowhere.yaml: No such file or directory"),
        (SOURCE, ["--weights", "nowhere.pt"], "--weights nowhere.pt: no such file"),
    ],
)
def test_convert_names_what_it_cannot_read(tmp_path: Path, source: str, arguments: list[str], message: str) -> None:
    said = child("convert", source, "--target", "onnx", *arguments, "-o", tmp_path / "out")
    assert said.returncode == 2
    assert said.stderr.splitlines()[-1].startswith(f"edgekit: error: {message}")
    assert not list(tmp_path.glob("out/*"))


# ---- run ----


def lines(said: Said) -> list[dict[str, Any]]:
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def test_run_gives_one_line_for_each_image(cli: Cli, tiny: Path, photos: Path) -> None:
    rows = lines(cli("run", tiny, photos, "--json"))
    assert [Path(row["image"]).name for row in rows] == [f"{seed:03}.png" for seed in range(4)]
    model = load(tiny)
    for seed, row in enumerate(rows):
        result = model(picture(seed))
        assert len(row["detections"]) == len(result) > 0
        for found, box, score, kind in zip(
            row["detections"], result.boxes, result.scores, result.class_ids, strict=True
        ):
            assert list(found) == ["box", "score", "class_id", "name"]
            np.testing.assert_allclose(found["box"], box, atol=1e-3)
            assert found["score"] == pytest.approx(float(score), abs=1e-5)
            assert found["class_id"] == kind
            assert found["name"] == CLASSES[kind]


def test_run_takes_images_globs_and_lists_one_after_another(cli: Cli, tiny: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{photos / '002.png'}\n")
    rows = lines(cli("run", tiny, photos / "003.png", photos / "00[01].png", tmp_path / "list.txt", "--json"))
    assert [Path(row["image"]).name for row in rows] == ["003.png", "000.png", "001.png", "002.png"]


def test_run_follows_and_films(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    from edgekit.runtimes.inputs.video import Video

    np.save(tmp_path / "frames.npy", np.stack([picture(0)] * 6))
    files = ("--video", tmp_path / "drawn.avi", "--mot", tmp_path / "tracks.txt")
    rows = lines(cli("run", tiny, tmp_path / "frames.npy", "--track", "sort", "--every", "2", "--json", *files))
    assert len(rows) == 6
    assert Video(str(tmp_path / "drawn.avi")).reliable_length() == 6
    tracks = [line.split(",") for line in (tmp_path / "tracks.txt").read_text().splitlines()]
    assert len(tracks) == sum(len(row["detections"]) for row in rows) > 0
    assert {len(line) for line in tracks} == {10}
    assert {found["track_id"] for row in rows for found in row["detections"]} == {int(line[1]) for line in tracks}
    left, top, width, height = (float(value) for value in tracks[-1][2:6])
    np.testing.assert_allclose(
        rows[-1]["detections"][-1]["box"], [left, top, left + width, top + height], atol=2e-3, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mot", "x.txt"), "--mot goes with --track NAME"),
        (("--every", "3"), "--every goes with --track NAME"),
        (("--track", "byte"), "tracker 'byte' is not one of: botsort, bytetrack, ocsort, sort"),
        (("--video", "x.gif"), "video file name ending '.gif' is not one of: "),
    ],
)
def test_run_refuses_what_does_not_go_together(
    arguments: tuple[str, ...], words: str, cli: Cli, tiny: Path, photos: Path, tmp_path: Path
) -> None:
    done = cli("run", tiny, photos, *arguments)
    assert done.code == 2
    assert words in done.err


def test_run_takes_a_video(cli: Cli, tiny: Path, shared_data: Path, tmp_path: Path) -> None:
    video = shared_data / "video" / "bikes.mp4"
    capture, short = cv2.VideoCapture(str(video)), tmp_path / "short.avi"
    frames = [capture.read()[1] for _ in range(3)]
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(short), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    rows = lines(cli("run", tiny, short, "--json", "--save", tmp_path / "drawn"))
    assert [row["image"] for row in rows] == [f"{short}#{number}" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        f"short.avi-{number}.jpg" for number in range(3)
    ]
    assert cv2.imread(str(tmp_path / "drawn" / "short.avi-0.jpg")).shape == frames[0].shape


def test_thresholds_do_what_they_say(cli: Cli, tiny: Path, photos: Path) -> None:
    def scores(*arguments: object) -> list[float]:
        rows = lines(cli("run", tiny, photos, "--json", *arguments))
        return [found["score"] for row in rows for found in row["detections"]]

    assert len(scores("--score", "0.001")) > len(scores()) > len(scores("--score", "0.97")) > 0
    assert min(scores("--score", "0.97")) > 0.97
    assert scores("--score", "1") == []


def test_save_draws_and_leaves_the_photographs(cli: Cli, tiny: Path, photos: Path, tmp_path: Path) -> None:
    before = contents(photos)
    said = cli("run", tiny, photos, "--save", tmp_path / "new" / "drawn")
    assert said.code == 0
    assert len(said.out.splitlines()) == 4
    assert all(re.search(r"\d+\.png: .+ \d+\.\d \+ \d+\.\d \+ \d+\.\d ms$", line) for line in said.out.splitlines())
    drawn = cv2.imread(str(tmp_path / "new" / "drawn" / "001.png"))
    assert drawn.shape == (SIZE, SIZE, 3)
    assert (drawn != picture(1)).any()
    np.testing.assert_array_equal(drawn, load(tiny)(picture(1)).draw(picture(1)))
    assert contents(photos) == before


def test_save_never_overwrites_the_photographs(cli: Cli, tiny: Path, photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(photos, mine)
    said = cli("run", tiny, mine, "--save", mine)
    assert said.code == 2
    assert said.err.strip() == (
        f"edgekit: error: --save {mine}: would overwrite the image {mine / '000.png'}; choose another folder"
    )
    assert contents(mine) == contents(photos)


def test_save_says_where_it_cannot_write(cli: Cli, tiny: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    said = cli("run", tiny, photos / "000.png", "--save", tmp_path / "file")
    assert said.code == 2
    assert re.search(r"error: --save .+file/000\.png: cannot be written: (File exists|Not a directory)", said.err)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "is empty (0 bytes), not an image"),
        ("text.jpg", b"this is no image", "damaged, or not an image that OpenCV can decode"),
        ("missing.png", None, "missing.png"),
        ("cut.png", cv2.imencode(".png", picture(0))[1].tobytes()[:40], "cut.png: "),
    ],
)
def test_a_bad_image_is_named(
    cli: Cli, tiny: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = cli("run", tiny, tmp_path / name, "--json")
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("edgekit: error: ")
    assert name in said.err
    assert message in said.err
    assert "Traceback" not in said.err


def test_what_came_before_a_bad_image_is_not_lost(cli: Cli, tiny: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copyfile(photos / "000.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    said = cli("run", tiny, tmp_path, "--json")
    assert said.code == 2
    assert [Path(json.loads(line)["image"]).name for line in said.out.splitlines()] == ["a.png"]
    assert "b.png: is empty (0 bytes)" in said.err


@pytest.mark.parametrize("dark", ["nan", "inf"])
def test_nan_and_infinite_outputs_exit_with_1(cli: Cli, tmp_path: Path, photos: Path, dark: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    bundle = write_tiny_bundle(tmp_path / "tiny", dark)
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((SIZE, SIZE, 3), np.uint8))
    said = cli("run", bundle, tmp_path / "black.png", "--json")
    assert said.code == 1
    assert said.out == ""
    assert said.err.strip() == (
        "edgekit: error: the graph gave NaN or infinite outputs; convert in another precision, or verify the bundle"
    )


@pytest.mark.parametrize("command", [["run", "{}", "x.png"], ["info", "{}"], ["evaluate", "{}", "--labels", "x.json"]])
@pytest.mark.parametrize("damage", ["nothing there", "bit", "edited", "empty manifest"])
def test_a_damaged_bundle_is_refused_by_every_command(
    cli: Cli, tiny: Path, tmp_path: Path, command: list[str], damage: str
) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(tiny, path)
    manifest, model = path / MANIFEST, path / "model.onnx"
    if damage == "nothing there":
        shutil.rmtree(path)
        path.mkdir()
    elif damage == "bit":
        data = model.read_bytes()
        model.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    elif damage == "edited":
        manifest.write_text(manifest.read_text().replace('"green"', '"blue"'))
    else:
        manifest.write_bytes(b"")
    said = cli(*(part.format(path) for part in command))
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"edgekit: error: {path}")
    assert len(said.err.splitlines()) == 1


def test_unknown_and_missing_devices_are_told_apart(cli: Cli, tiny: Path, photos: Path) -> None:
    said = cli("run", tiny, photos, "--unit", "tpu")
    assert (said.code, said.err) == (
        2,
        "edgekit: error: unit 'tpu' is not one of: cpu, cuda (engine onnxruntime)\n",
    )
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert cli("run", tiny, photos, "--unit", "cuda").code == 1
    assert cli("run", tiny, photos, "--unit", "cpu", "--threads", "1", "--strict").code == 0


def test_a_missing_engine_is_said_with_what_to_install(tiny: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'onnxruntime':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    said = child("run", tiny, photos, PYTHONPATH=str(tmp_path))
    assert said.returncode == 1
    assert said.stderr == "edgekit: error: engine onnxruntime needs onnxruntime: pip install edgekit[onnx]\n"
    targets = json.loads(child("targets", "--json", PYTHONPATH=str(tmp_path)).stdout)
    assert {entry["engine"]: entry["engine_available"] for entry in targets}["onnxruntime"] is False
    assert next(entry for entry in targets if entry["target"] == "onnx")["missing"] == (
        "missing onnxruntime: pip install edgekit[convert]"
    )
    converted = child("convert", SOURCE, "--target", "onnx", "-o", tmp_path / "out", PYTHONPATH=str(tmp_path))
    assert converted.returncode == 2
    assert converted.stderr.strip() == "edgekit: error: target onnx: missing onnxruntime: pip install edgekit[convert]"


def test_a_module_that_cannot_be_imported_is_named(cli: Cli, tiny: Path, photos: Path) -> None:
    said = cli("run", tiny, photos, "--import", "no_such_module")
    assert (said.code, said.err) == (
        2,
        "edgekit: error: --import no_such_module: No module named 'no_such_module'\n",
    )


# ---- evaluate ----


def annotate(photos: Path, path: Path) -> Path:
    """Truth for the pictures: every coloured cell, in the size that the detector gives it."""
    boxes = []
    for seed in range(4):
        image = picture(seed)
        for row, column in np.ndindex(4, 4):
            blue, green, red = (int(value) for value in image[16 * row + 8, 16 * column + 8])
            if max(red, green) < 150:
                continue
            reach = 16 * (0.35 + 0.1 * (red + green + blue) / 255)
            centre = np.array([column, row]) * 16 + 8
            low, high = np.clip([centre - reach, centre + reach], 0, SIZE)
            box = [*low.tolist(), *(high - low).tolist()]
            boxes.append({"image_id": seed, "category_id": 7 if red > green else 3, "bbox": box})
    for number, one in enumerate(boxes, 1):
        one |= {"id": number, "iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3]}  # type: ignore[index]
    names = [{"id": 7, "name": "red"}, {"id": 3, "name": "green"}]
    images = [{"id": seed, "file_name": f"{seed:03}.png", "width": SIZE, "height": SIZE} for seed in range(4)]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": names}))
    return path


def test_evaluate_measures_what_is_known(cli: Cli, tiny: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="needs the extra 'convert'")
    truth = annotate(photos, tmp_path / "truth.json")
    said = cli("evaluate", tiny, "--labels", truth, "--data", photos, "--json")
    assert said.code == 0
    data = json.loads(said.out)
    assert data["bundle"] == str(tiny)
    assert data["mAP"] == data["mAP50"] == pytest.approx(1.0, abs=1e-6)
    assert data["per_class"] == pytest.approx({"red": 1.0, "green": 1.0}, abs=1e-6)
    assert data["images"] == 4
    shown = cli("evaluate", tiny, "--labels", truth, "--data", photos)
    assert shown.out.startswith("mAP 1.0000  mAP50 1.0000")


@pytest.mark.convert
def test_evaluate_measures_a_source_too(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="needs the extra 'convert'")
    truth = annotate(photos, tmp_path / "truth.json")
    done = child("evaluate", "tiny_models:recoloured", "--labels", truth, "--data", photos, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mAP"] < 0.1


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "truth.json: no such file"), (b"", "truth.json: not a COCO"), (b"[]", "truth.json: not a COCO")],
)
def test_evaluate_names_bad_annotations(
    cli: Cli, tiny: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "truth.json").write_bytes(content)
    said = cli("evaluate", tiny, "--labels", tmp_path / "truth.json")
    assert said.code == 2
    assert message in said.err


# ---- debug ----


def test_no_traceback_without_debug_and_one_with_it(tmp_path: Path) -> None:
    plain = child("info", tmp_path)
    assert plain.returncode == 2
    assert plain.stderr.count("\n") == 1
    for arguments in (["--debug", "info", tmp_path], ["info", tmp_path, "--debug"]):
        shown = child(*arguments)
        assert shown.returncode == 1
        assert shown.stderr.startswith("Traceback")
        assert "BundleError" in shown.stderr.splitlines()[-1]


def test_a_mistake_of_ours_is_one_line_too(tmp_path: Path) -> None:
    program = (
        "import edgekit.runtimes.bundle.folder\n"
        "def broken(path): raise KeyError('surprise')\n"
        "edgekit.runtimes.bundle.folder.open_bundle = broken\n"
        "from edgekit.cli import main; main()"
    )
    said = child("info", tmp_path, program=program)
    assert said.returncode == 1
    assert said.stderr == (
        "edgekit: internal error: KeyError: 'surprise' (please report it; --debug shows the traceback)\n"
    )


def test_a_reader_that_leaves_early_is_no_error(tiny: Path, photos: Path) -> None:
    import subprocess
    import sys

    from tiny_conversions import environment

    program = "from edgekit.cli import main; main()"
    command = [sys.executable, "-c", program, "run", str(tiny), *[str(photos)] * 300, "--json"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 1
