"""Hugging Face datasets as sources: folders of real files on this disk, read by the package itself, without network."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from audit import watch

from edgekit.arrays import Image
from edgekit.errors import InputError
from edgekit.runtimes.inputs import huggingface
from edgekit.runtimes.inputs.huggingface import Address, parse
from edgekit.runtimes.inputs.media import count, frames, references, select


def numbered(number: int) -> Image:
    """An image that tells its number by its green, and its colour order by its blue and red."""
    image = np.zeros((24, 32, 3), np.uint8)
    image[:] = (250, number, 10)
    return image


def number_of(image: Image) -> int:
    assert image.dtype == np.uint8
    blue, green, red = image.reshape(-1, 3).mean(0).round().astype(int)
    assert (blue, red) == (250, 10), "BGR"
    return int(green)


def encoded(number: int) -> bytes:
    return cv2.imencode(".png", numbered(number))[1].tobytes()


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://beans", Address("beans", local=False)),
        ("hf://detection-datasets/coco", Address("detection-datasets/coco", local=False)),
        ("hf://owner/name@v1.0", Address("owner/name", local=False, revision="v1.0")),
        (
            "hf://owner/name@refs/pr/3?split=test",
            Address("owner/name", local=False, revision="refs/pr/3", split="test"),
        ),
        (
            "HF://owner/name?config=full&column=picture&count=64&seed=7",
            Address("owner/name", local=False, config="full", column="picture", count=64, seed=7),
        ),
        ("hf:///data/street photos", Address("/data/street photos", local=True)),
        ("hf:///data/a@b?split=train%5B%3A10%25%5D", Address("/data/a@b", local=True, split="train[:10%]")),
        ("hf://./photos?config=", Address("./photos", local=True)),
        ("hf://../photos", Address("../photos", local=True)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hf://", r"'hf://': not the address of a dataset; the form is hf://OWNER/NAME"),
        ("hf://owner/name/config", "not the address of a dataset"),
        ("hf://owner/name@", "not the address of a dataset"),
        ("hf://https://example.org/x", "not the address of a dataset"),
        ("hf://owner/name?splits=train", "key 'splits' is not one of: split, config, column, count, seed; the form is"),
        ("hf://owner/name?count=0", "count must be a whole number from 1 on, not '0'"),
        ("hf://owner/name?count=many", "count must be a whole number from 1 on, not 'many'"),
        ("hf://owner/name?seed=-1", "seed must be a whole number from 0 on, not '-1'"),
    ],
)
def test_what_is_no_address_is_refused_at_once(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        frames(text)
    with pytest.raises(InputError, match=says):
        references([np.zeros((4, 4, 3), np.uint8), text])


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"hf://owner/name: needs the package datasets: pip install 'datasets>=4'"):
        frames("hf://owner/name")


def test_a_package_that_runs_code_of_datasets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("datasets")
    old.__version__ = "3.6.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", old)
    with pytest.raises(InputError, match=r"datasets 3\.6\.0 may run code that a dataset brings: pip install 'datasets"):
        frames("hf://owner/name")


# --- datasets on this disk -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def datasets() -> Any:
    return pytest.importorskip("datasets", minversion="4", reason="needs the optional package datasets (pip install)")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package leaves behind goes with the test; nor does it wait five seconds where a stream is left early."""
    if "datasets" in sys.modules and sys.modules["datasets"] is not None:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in a folder for each class, as the package calls an image folder: 3 classes of 40."""
    for number in range(120):
        path = tmp_path / "photos" / "train" / f"class{number // 40}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    (tmp_path / "photos" / "test" / "class0").mkdir(parents=True)
    (tmp_path / "photos" / "test" / "class0" / "200.png").write_bytes(encoded(200))
    return tmp_path / "photos"


def parquet(datasets: Any, folder: Path, columns: dict[str, Any], features: dict[str, Any], batch: int = 10) -> Path:
    """A dataset in one parquet file with a row group for each batch."""
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    folder.mkdir(parents=True, exist_ok=True)
    made.to_parquet(str(folder / "train.parquet"), batch_size=batch)
    return folder


@pytest.fixture
def table(datasets: Any, tmp_path: Path) -> Path:
    """100 images in parquet, beside their numbers."""
    pictures = [{"bytes": encoded(number), "path": None} for number in range(100)]
    return parquet(
        datasets,
        tmp_path / "table",
        {"label": list(range(100)), "picture": pictures},
        {"label": datasets.Value("int64"), "picture": datasets.Image()},
    )


def numbers(source: object) -> list[int]:
    return [number_of(frame.image) for frame in frames(source)]


@pytest.mark.usefixtures("datasets")
class TestFolders:
    def test_an_image_folder(self, folder: Path) -> None:
        assert sorted(numbers(f"hf://{folder}")) == list(range(120))
        assert numbers(f"hf://{folder}?split=test") == [200]
        assert count(f"hf://{folder}") == 120

    def test_a_small_choice_has_all_classes(self, folder: Path) -> None:
        """The files come class by class; a shuffle buffer that is too small would give the first class alone."""
        classes = Counter(number // 40 for number in numbers(f"hf://{folder}?count=30"))
        assert min(classes[number] for number in range(3)) >= 3

    def test_names_and_indices(self, folder: Path) -> None:
        address = f"hf://{folder}?count=3"
        found = list(frames(address))
        assert [frame.name for frame in found] == [f"{address}#{number}" for number in range(3)]
        assert [frame.index for frame in found] == [0, 1, 2]
        assert [one.name for one in references(address)] == [frame.name for frame in found]

    def test_a_relative_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder.parent)
        assert numbers("hf://./photos?split=test") == [200]

    def test_a_damaged_image_is_named_and_can_be_skipped(self, folder: Path) -> None:
        (folder / "test" / "class0" / "201.png").write_bytes(b"damaged")
        (folder / "test" / "class0" / "202.png").touch()
        address = f"hf://{folder}?split=test"
        assert [number_of(frame.image) for frame in frames(address, on_error="skip")] == [200]
        with pytest.raises(InputError, match=r"photos\?split=test#\d: (damaged|is empty)"):
            list(frames(address))

    def test_together_with_other_sources(self, folder: Path) -> None:
        mixture = [numbered(9), f"hf://{folder}?split=test", folder / "train" / "class0" / "007.png"]
        assert numbers(mixture) == [9, 200, 7]
        assert [number_of(one.open()) for one in references(mixture)] == [9, 200, 7]


class TestParquet:
    def test_the_column_of_images_is_found(self, table: Path) -> None:
        assert sorted(numbers(f"hf://{table}")) == list(range(100))

    def test_a_seeded_choice(self, table: Path) -> None:
        chosen = [numbers(f"hf://{table}?count=20&seed={seed}") for seed in (1, 1, 2)]
        assert chosen[0] == chosen[1]
        assert sorted(chosen[0]) != sorted(chosen[2])
        assert all(len(set(one)) == 20 for one in chosen)
        assert max(chosen[0]) > 50, "not the first ones"

    def test_references_can_be_opened_in_any_order(self, table: Path) -> None:
        address = f"hf://{table}?count=12"
        every, inorder = references(address), numbers(address)
        assert len(every) == 12
        for index in (11, 0, 5, 5, -1):
            assert number_of(every[index].open()) == inorder[index]
        assert {number_of(one.open()) for one in select(address, 4, seed=0)} <= set(inorder)

    def test_images_come_one_after_the_other(self, datasets: Any, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Counted where the package itself hands over its examples."""
        handed = 0
        original = datasets.iterable_dataset.IterableDataset.__iter__

        def counting(self: Any) -> Any:
            nonlocal handed
            for example in original(self):
                handed += 1
                yield example

        monkeypatch.setattr(datasets.iterable_dataset.IterableDataset, "__iter__", counting)
        stream = frames(f"hf://{table}?count=50")
        assert handed == 0
        next(stream)
        next(stream)
        assert handed == 2, "one after the other, not all at first"
        assert len(list(stream)) == 48
        assert handed == 50

    @pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="needs /proc to see how much is read")
    def test_a_large_dataset_is_not_read_whole(
        self, datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(huggingface, "BUFFER", 10)
        noise = np.random.default_rng(0).integers(0, 256, (1500, 40, 40, 3), np.uint8)
        pictures = [{"bytes": cv2.imencode(".png", image)[1].tobytes(), "path": None} for image in noise]
        path = parquet(datasets, tmp_path / "large", {"image": pictures}, {"image": datasets.Image()})
        size = (path / "train.parquet").stat().st_size

        def read() -> int:
            return int(Path("/proc/self/io").read_text().split()[1])

        shares = []
        for wanted in (2, 20, 5000):
            begin = read()
            assert len(list(frames(f"hf://{path}?count={wanted}"))) == min(wanted, 1500)
            shares.append((read() - begin) / size)
        assert shares[0] < 0.3
        assert shares[1] < 0.4
        assert shares[2] > 0.9, "the measure sees what is read"

    def test_many_images_wait_on_disk(self, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface, "IN_MEMORY", 100)
        address = f"hf://{table}?count=30"
        every = references(address)
        assert sorted(number_of(one.open()) for one in every) == sorted(numbers(address))

    def test_encoded_images_in_a_column_of_bytes(self, datasets: Any, tmp_path: Path) -> None:
        column = {"jpg": [encoded(number) for number in range(5)]}
        path = parquet(datasets, tmp_path / "raw", column, {"jpg": datasets.Value("binary")})
        with pytest.raises(InputError, match=r"which column holds the images\? Add \?column=NAME .*; columns: jpg"):
            frames(f"hf://{path}")
        assert sorted(numbers(f"hf://{path}?column=jpg")) == [0, 1, 2, 3, 4]

    def test_which_of_two_columns(self, datasets: Any, tmp_path: Path) -> None:
        def two(first: str, second: str) -> Path:
            columns = {name: [{"bytes": encoded(number), "path": None}] for name, number in ((first, 1), (second, 2))}
            return parquet(datasets, tmp_path / second, columns, dict.fromkeys(columns, datasets.Image()))

        assert numbers(f"hf://{two('mask', 'image')}") == [2]
        left = two("left", "right")
        with pytest.raises(InputError, match=r"Add \?column=NAME to the address; columns: left, right"):
            frames(f"hf://{left}")
        assert numbers(f"hf://{left}?column=left") == [1]
        with pytest.raises(InputError, match="column 'up' is not one of: left, right"):
            frames(f"hf://{left}?column=up")

    def test_an_example_without_an_image_is_named(self, datasets: Any, tmp_path: Path) -> None:
        column = {"image": [{"bytes": encoded(1), "path": None}, None]}
        path = parquet(datasets, tmp_path / "gaps", column, {"image": datasets.Image()})
        assert [number_of(frame.image) for frame in frames(f"hf://{path}", on_error="skip")] == [1]
        with pytest.raises(InputError, match=r"gaps#\d: is empty \(0 bytes\), not an image"):
            list(frames(f"hf://{path}"))

    @pytest.mark.parametrize(
        "named", ["secret.png", "http://192.0.2.1/a.png", "../secret.png", "hf://datasets/a/b.png"]
    )
    def test_a_table_cannot_name_files_elsewhere(self, datasets: Any, tmp_path: Path, named: str) -> None:
        (tmp_path / "secret.png").write_bytes(encoded(3))
        path = tmp_path / "table" / named if named.startswith("..") else tmp_path / named
        column = {"image": [{"bytes": None, "path": named if "://" in named else str(path)}]}
        folder = parquet(datasets, tmp_path / "table", column, {"image": datasets.Image()})
        every = f"hf://{folder}"
        for _ in range(2):
            with pytest.raises(InputError, match=r"an example names the file .* which is not part of the dataset"):
                list(frames(every))
        with pytest.raises(InputError, match="not part of the dataset"):
            references(every)

    def test_a_table_may_name_files_beside_it(self, datasets: Any, tmp_path: Path) -> None:
        (tmp_path / "table").mkdir()
        (tmp_path / "table" / "own.png").write_bytes(encoded(3))
        lines = [{"image": str(tmp_path / "table" / "own.png")}]
        (tmp_path / "table" / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
        assert numbers(f"hf://{tmp_path / 'table'}?column=image") == [3]


class TestRefusals:
    def test_nothing_there(self, datasets: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such folder; a dataset of the hub is written as hf://OWNER/NAME"):
            frames("hf:///no/such/folder")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"cannot be opened as a dataset \("):
            frames(f"hf://{tmp_path}/empty")
        path = parquet(datasets, tmp_path / "none", {"image": []}, {"image": datasets.Image()})
        with pytest.raises(InputError, match=r"no image in this dataset; is it the right split\?"):
            list(frames(f"hf://{path}"))

    def test_wrong_split_and_configuration(self, table: Path) -> None:
        with pytest.raises(InputError, match=r"Bad split: test. Available splits: \['train'\]"):
            frames(f"hf://{table}?split=test")
        with pytest.raises(InputError, match=r"cannot be opened as a dataset .*'small' not found"):
            frames(f"hf://{table}?config=small")

    def test_a_stream_that_breaks_off_does_not_look_like_one_that_ended(self, table: Path) -> None:
        """Opened, and damaged before its pages are read."""
        path = table / "train.parquet"
        whole = path.read_bytes()
        address = f"hf://{table}"
        every = frames(address)
        middle = len(whole) // 4
        path.write_bytes(whole[:middle] + bytes(len(whole) // 2) + whole[middle + len(whole) // 2 :])
        with pytest.raises(InputError, match=r"broke off after \d+ images \(.*\); try again"):
            list(every)
        with pytest.raises(InputError, match=r"broke off|cannot be opened"):
            references(address)


@pytest.mark.usefixtures("datasets")
def test_a_dataset_on_disk_is_read_without_network_and_execution(folder: Path, tmp_path: Path) -> None:
    code = (
        "from edgekit.runtimes.inputs.media import frames\n"
        f"print(sum(1 for frame in frames('hf://{folder}?count=25')), flush=True)\n"
    )
    script = tmp_path / "reading.py"
    script.write_text(code)
    quiet = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    watched = watch([sys.executable, str(script)], tmp_path / "log", timeout=120, **quiet)
    assert (watched.code, watched.stdout) == (0, "25\n")
    assert watched.attempts == []


@pytest.mark.usefixtures("datasets")
def test_calibration_takes_its_images_from_a_dataset(folder: Path, tmp_path: Path) -> None:
    from edgekit.calibration.split import split
    from edgekit.runtimes.bundle.manifest import ImageRule

    done = split(f"hf://{folder}?count=60", ImageRule(size=(24, 32)), tmp_path, seed=0, calibrate=True)
    assert done.calibration is not None
    assert (len(done.digests), done.photographs) == (42, 18)
    pixels = {hashlib.sha256(numbered(number).tobytes()).hexdigest()[:16] for number in range(120)}
    assert set(done.digests) <= pixels
