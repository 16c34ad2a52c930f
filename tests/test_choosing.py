"""Choosing few images of many: every kind is there, none twice, and what is chosen represents the rest."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.arrays import Image
from edgekit.calibration.choosing import evenly_spaced, most_informative
from edgekit.errors import InputError, UsageError
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.media import ImageReference, references
from edgekit.shapes import moving_scene, scene

RULE = ImageRule(size=(96, 96), resize="letterbox")
COUNTS = {"day": 60, "night": 12, "fog": 4}


def day(seed: int) -> Image:
    return scene(seed, (96, 96)).image


def night(seed: int) -> Image:
    return (day(seed) * 0.2).astype(np.uint8)


def fog(seed: int) -> Image:
    return (day(seed) * 0.2 + 190).astype(np.uint8)


def save(path: Path, image: Image, *, quality: int = 95) -> None:
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else []
    path.write_bytes(cv2.imencode(path.suffix, image, parameters)[1].tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of images in very unequal numbers."""
    path = tmp_path_factory.mktemp("photos")
    kinds = {"day": day, "night": night, "fog": fog}
    for kind, make in kinds.items():
        for number in range(COUNTS[kind]):
            save(path / f"{kind}-{number:02}.png", make(10_000 + 100 * list(kinds).index(kind) + number))
    return path


def kinds(chosen: list[ImageReference]) -> Counter[str]:
    return Counter(Path(reference.name).name.partition("-")[0] for reference in chosen)


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_is_represented(folder: Path, seed: int) -> None:
    chosen = most_informative(references(folder), 10, RULE, seed=seed)
    assert len({reference.name for reference in chosen}) == 10
    assert set(kinds(chosen)) == {"day", "night", "fog"}


def test_the_choice_represents_the_folder_better_than_chance(folder: Path) -> None:
    """Judged on something else than it is made with: distances of the whole images, not of thumbnails."""
    every = references(folder)
    images = np.stack([reference.open() for reference in every]).astype(np.float32).reshape(len(every), -1)
    place = {reference.name: number for number, reference in enumerate(every)}

    def farthest(chosen: list[int]) -> float:
        """How far the images are from the chosen one nearest to them, at the worst tenth."""
        distances = np.stack([np.sqrt(np.square(images - images[one]).mean(1)) for one in chosen]).min(0)
        return float(np.quantile(distances, 0.9))

    ours = [farthest([place[one.name] for one in most_informative(every, 12, RULE, seed=seed)]) for seed in range(5)]
    random = np.random.default_rng(0)
    chance = [farthest(random.choice(len(every), 12, replace=False).tolist()) for _ in range(15)]
    assert np.mean(ours) < np.mean(chance)


def test_the_choice_comes_back_with_its_seed_in_the_order_of_the_source(folder: Path) -> None:
    names = [[one.name for one in most_informative(references(folder), 12, RULE, seed=seed)] for seed in (3, 3, 4)]
    assert names[0] == names[1]
    assert names[0] != names[2]
    assert all(sorted(chosen) == chosen for chosen in names)


def test_no_image_is_chosen_twice_under_any_name(tmp_path: Path) -> None:
    """Copies, the same photograph compressed anew, and one in another size."""
    for number in range(8):
        image = cv2.resize(day(500 + number), (256, 256), interpolation=cv2.INTER_CUBIC)
        save(tmp_path / f"{number}-original.png", image)
        save(tmp_path / f"{number}-copy.png", image)
        save(tmp_path / f"{number}-compressed.jpg", image, quality=60)
        save(tmp_path / f"{number}-smaller.png", cv2.resize(image, (160, 160), interpolation=cv2.INTER_AREA))
    chosen = most_informative(references(tmp_path), 30, RULE, seed=1)
    assert kinds(chosen) == {str(number): 1 for number in range(8)}, "fewer where there are not so many different ones"


def test_a_still_scene_in_which_something_moves_is_not_one_image(tmp_path: Path) -> None:
    empty = day(1)
    moving = []
    for x in range(0, 80, 16):
        image = empty.copy()
        image[30:60, x : x + 16] = (20, 40, 230)
        moving.append(image)
    chosen = most_informative(references(np.stack([empty, empty, *moving, moving[0]])), 9, RULE, seed=0)
    assert len(chosen) == 6


def test_images_are_judged_as_the_model_sees_them() -> None:
    """What a crop leaves out makes no difference."""
    wide = [np.concatenate([side, day(7), side], 1) for side in (np.zeros_like(day(7)), np.full_like(day(7), 255))]
    crop = ImageRule(size=(96, 96), resize="crop")
    assert len(most_informative(references(wide), 2, crop, seed=0)) == 1
    assert len(most_informative(references(wide), 2, RULE, seed=0)) == 2


@pytest.mark.parametrize("level", [0, 128, 255])
def test_images_without_any_difference(level: int) -> None:
    images = np.full((5, 32, 32, 3), level, np.uint8)
    assert len(most_informative(references(images), 3, RULE, seed=0)) == 1


def test_all_are_taken_where_there_are_no_more(folder: Path) -> None:
    few = references(folder)[:7]
    assert [one.name for one in most_informative(few, 50, RULE, seed=0)] == [one.name for one in few]
    assert most_informative([], 3, RULE, seed=0) == []


@pytest.mark.nightly
def test_every_image_is_opened_once_in_order_and_let_go() -> None:
    opened: list[int] = []
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    most = 0

    def opener(number: int) -> Callable[[], Image]:
        def opens() -> Image:
            nonlocal most
            gc.collect()
            most = max(most, sum(one() is not None for one in alive))
            image = day(number)
            opened.append(number)
            alive.append(weakref.ref(image))
            return image

        return opens

    chosen = most_informative([ImageReference(str(number), opener(number)) for number in range(12)], 5, RULE, seed=0)
    assert opened == list(range(12))
    assert most <= 1, "memory does not grow with the number of images"
    assert len(chosen) == 5


def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    for choose in (lambda: most_informative(references(folder), 0, RULE, seed=0), lambda: evenly_spaced([], 0)):
        with pytest.raises(UsageError, match="count must be at least 1, not 0"):
            choose()
    save(tmp_path / "a.png", day(1))
    (tmp_path / "b.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"b\.png: damaged"):
        most_informative(references(tmp_path), 1, RULE, seed=0)


# --- videos ----------------------------------------------------------------------------------------------------------


def film(path: Path, images: Iterable[Image]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 96))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG video")
    for image in images:
        writer.write(image)
    writer.release()
    return path


def frame_number(reference: ImageReference) -> int:
    number = int(reference.name.rpartition("#")[2])
    assert round((float(reference.open().mean()) - 5) / 4) == number, "the name says which frame comes"
    return number


@pytest.mark.parametrize(("count", "expected"), [(1, [30]), (4, [7, 22, 37, 52]), (6, [5, 15, 25, 35, 45, 55])])
def test_frames_of_a_video_at_equal_distances(tmp_path: Path, count: int, expected: list[int]) -> None:
    numbered = (np.full((96, 96, 3), 5 + 4 * number, np.uint8) for number in range(60))
    every = references(film(tmp_path / "v.avi", numbered))
    assert [frame_number(one) for one in evenly_spaced(every, count)] == expected


@pytest.mark.parametrize("total", [1, 2, 7, 59, 60])
def test_evenly_spaced_is_even_for_every_count(total: int) -> None:
    every = [ImageReference(str(number), lambda: day(0)) for number in range(total)]
    for count in range(1, total + 5):
        places = [int(one.name) for one in evenly_spaced(every, count)]
        assert len(set(places)) == min(count, total)
        steps = [second - first for first, second in itertools.pairwise(places)]
        assert not steps or max(steps) - min(steps) <= 1
        assert abs(places[0] - (total - 1 - places[-1])) <= 1, "as far from the start as from the end"


def test_the_most_informative_frames_of_a_video_are_no_neighbours(tmp_path: Path) -> None:
    """The scene stands still for most of the time: one of these frames is enough."""
    moving = [item.image for item in moving_scene(3, frames=12, fps=3, size=(96, 96))]
    path = film(tmp_path / "v.avi", [*[moving[0]] * 30, *moving[1:]])
    chosen = most_informative(references(path), 6, RULE, seed=0)
    places = [int(one.name.rpartition("#")[2]) for one in chosen]
    assert len(places) == 6
    assert sum(place < 30 for place in places) == 1
