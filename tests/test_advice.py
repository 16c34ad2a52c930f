"""Advice on calibration images: from a real detector's tensors, and from made-up ones of known distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.arrays import Floats, Image
from edgekit.calibration.advice import FEWEST, ImageStatistics
from edgekit.calibration.plan import Advice
from edgekit.errors import UsageError
from edgekit.runtimes.inputs.images import Preprocessor
from edgekit.runtimes.inputs.media import references
from edgekit.shapes import scene

FIRST = 300_000
TENSORS = 40


@dataclass(frozen=True)
class Seen:
    """What one image did to a network."""

    extremes: dict[str, tuple[float, float]]


def statistics(images: Iterable[Seen]) -> ImageStatistics:
    told = ImageStatistics()
    for index, seen in enumerate(images):
        told.add(index, seen.extremes)
    return told


def with_one(images: list[Seen], odd: Seen, place: int = 7) -> ImageStatistics:
    return statistics([*images[:place], odd, *images[place:]])


# --- a real network --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def look() -> Iterator[Callable[[Image], Seen]]:
    """The demo detector, watched at every layer."""
    torch = pytest.importorskip("torch", reason="needs the extra 'convert'")
    from edgekit.shapes.trained import detector

    model = detector().eval()
    preprocess = Preprocessor(model.contract.image)  # type: ignore[arg-type, union-attr]
    held: dict[str, Floats] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: object, _given: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                held[name] = output.numpy()

        return hook

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(watch(name))

    def run(image: Image) -> Seen:
        held.clear()
        held["images"] = preprocess(image)[0]
        with torch.inference_mode():
            model(torch.from_numpy(held["images"]))
        extremes = {name: (float(value.min()), float(value.max())) for name, value in held.items()}
        return Seen(extremes)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small layers: more threads wait for each other
    yield run
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes(look: Callable[[Image], Seen]) -> list[Seen]:
    return [look(scene(FIRST + number).image) for number in range(60)]


@pytest.fixture(scope="module")
def nights(look: Callable[[Image], Seen]) -> list[Seen]:
    return [look(dark(scene(FIRST + 500 + number).image)) for number in range(20)]


def dark(image: Image) -> Image:
    return (image * 0.3).astype(np.uint8)


def damaged() -> dict[str, Image]:
    image = scene(FIRST + 900).image
    return {
        "black": np.zeros_like(image),
        "white": np.full_like(image, 255),
        "grey": np.full_like(image, 128),
    }


@pytest.mark.parametrize("name", ["black", "white", "grey"])
def test_a_damaged_frame_among_scenes_is_found(name: str, look: Callable[[Image], Seen], scenes: list[Seen]) -> None:
    advice = with_one(scenes[:60], look(damaged()[name])).advice()
    (outlier,) = advice.outliers
    assert outlier.image == 7
    assert outlier.tensor in scenes[0].extremes
    assert outlier.distance > 2
    (sentence,) = advice.sentences[1:]
    assert sentence.startswith("image 7 ")
    assert sentence.endswith(f"at {outlier.tensor}: look at it or leave it out")
    assert advice.sentences[0].startswith("60 images besides the unusual ones; the ranges changed by ")


def test_a_black_frame_among_photographs_is_found(look: Callable[[Image], Seen], shared_data: Path) -> None:
    photographs = [look(one.open()) for one in references(shared_data / "calibration")]
    assert statistics(photographs).advice().outliers == ()
    (outlier,) = with_one(photographs, look(damaged()["black"])).advice().outliers
    assert outlier.image == 7


def test_three_nearly_black_frames_do_not_hide_one_another(look: Callable[[Image], Seen], scenes: list[Seen]) -> None:
    shape = scene(FIRST).image.shape
    black = [look(np.full(shape, level, np.uint8)) for level in (0, 2, 4)]
    assert {one.image for one in statistics([*black, *scenes]).advice().outliers} == {0, 1, 2}


def test_ordinary_scenes_are_no_outliers(scenes: list[Seen]) -> None:
    order = np.random.default_rng(1).permutation(len(scenes))
    streams = [scenes, *([scenes[place] for place in order[begin : begin + 20]] for begin in range(0, 60, 20))]
    assert [one for stream in streams for one in statistics(stream).advice().outliers] == []


def test_half_a_frame_sets_the_ranges_as_a_whole_one_does(look: Callable[[Image], Seen], scenes: list[Seen]) -> None:
    """What is left of it reaches as far; this damage harms no ranges, and cannot be seen in them."""
    image = scene(FIRST + 900).image.copy()
    image[len(image) // 2 :] = 128  # as a decoder fills what is missing
    assert with_one(scenes[:60], look(image)).advice().outliers == ()


def test_another_kind_of_image_is_no_outlier(scenes: list[Seen], nights: list[Seen]) -> None:
    assert statistics([*scenes[:40], *nights]).advice().outliers == ()


def test_more_scenes_bring_the_ranges_nearer(scenes: list[Seen]) -> None:
    advice = statistics(scenes).advice()
    counts, distances = zip(*advice.curve, strict=True)
    assert counts == (1, 2, 4, 8, 16, 30, 32, 60)
    assert list(distances) == sorted(distances, reverse=True)
    assert distances[-1] == 0
    assert advice.enough
    assert "the ranges changed by " in advice.sentences[0]
    assert advice.sentences[0].endswith("% over the last 30: more images would not help")
    few = statistics(scenes[:16]).advice()
    assert not few.enough
    assert "images would bring that below 2 %" in few.sentences[0]


# --- made-up tensors -------------------------------------------------------------------------------------------------


def made_up(count: int, seed: int = 0, spread: float = 0.2) -> list[Seen]:
    """Images whose extremes scatter independently; the true range of every tensor is -1 .. 2."""
    random = np.random.default_rng(seed)

    def one() -> Seen:
        ends: NDArray[np.float64] = np.array([-1.0, 2.0]) * (1 + spread * random.standard_normal((TENSORS, 2)))
        names = [f"conv{number}" for number in range(TENSORS)]
        return Seen({name: (float(low), float(high)) for name, (low, high) in zip(names, ends, strict=True)})

    return [one() for _ in range(count)]


def changed(seen: Seen, tensor: str, low: float, high: float) -> Seen:
    return Seen({**seen.extremes, tensor: (low, high)})


def test_the_change_at_half_tells_the_error_at_the_end() -> None:
    """The true ranges are known here: the ranges of 64 images are as far from them as the curve says at 32."""
    told, true = [], []
    for seed in range(20):
        images = made_up(64, seed)
        told.append(dict(statistics(images).advice().curve)[32])
        ends = np.mean([list(seen.extremes.values()) for seen in images], 0)
        true.append((np.abs(ends - [-1, 2]).sum(1) / 3).mean())
    assert np.mean(told) == pytest.approx(np.mean(true), rel=0.1)


def test_the_number_of_images_asked_for_is_enough() -> None:
    advice = statistics(made_up(20, spread=0.25)).advice()
    needed = int(advice.sentences[0].split("about ")[1].split(" ")[0])
    assert not advice.enough
    assert 20 < needed < 200
    assert statistics(made_up(2 * needed, seed=1, spread=0.25)).advice().enough
    assert not statistics(made_up(needed // 2, seed=1, spread=0.25)).advice().enough


@pytest.mark.parametrize(("count", "begins"), [(1, "1 image is"), (5, "5 images are")])
def test_few_images_tell_nothing(count: int, begins: str) -> None:
    images = made_up(count, spread=0.0)
    advice = statistics(images).advice()
    assert (advice.enough, advice.outliers) == (False, ())
    assert advice.sentences == (f"{begins} too few to know the ranges: use 32 or more",)
    assert advice.curve[-1] == (count, 0)


def test_equal_images_are_enough_and_none_is_odd() -> None:
    advice = statistics(made_up(1) * 30).advice()
    assert [count for count, _ in advice.curve] == [1, 2, 4, 8, 15, 16, 30]
    assert max(distance for _, distance in advice.curve) < 1e-12
    assert (advice.enough, advice.outliers) == (True, ())


def test_an_image_that_reaches_further_is_named_with_its_tensor() -> None:
    images = made_up(50)
    low, high = -1.0, max(seen.extremes["conv12"][1] - seen.extremes["conv12"][0] for seen in images) * 3.2 - 1.0
    advice = with_one(images, changed(images[0], "conv12", low, high), 17).advice()
    (outlier,) = advice.outliers
    assert (outlier.image, outlier.tensor) == (17, "conv12")
    assert outlier.distance == pytest.approx(3.2)
    assert advice.sentences[1] == (
        "image 17 reaches 3.2 times further than all others at conv12: look at it or leave it out"
    )


def test_an_image_is_called_by_its_name_where_that_is_known() -> None:
    told = ImageStatistics([f"{place}.jpg" for place in range(20)])
    for place, seen in enumerate([*made_up(20), changed(made_up(1)[0], "conv3", -50, 50)]):
        told.add((place + 1) % 21, seen.extremes)
    (outlier,) = told.advice().outliers
    assert (outlier.image, outlier.name, outlier.called) == (0, "0.jpg", "0.jpg")
    assert told.advice().sentences[1].startswith("0.jpg reaches ")


def test_the_place_in_the_stream_is_the_one_given() -> None:
    told = ImageStatistics()
    for place, seen in enumerate([*made_up(20), changed(made_up(1)[0], "conv3", -50, 50)]):
        told.add(100 + 3 * place, seen.extremes)
    assert [one.image for one in told.advice().outliers] == [160]
    assert len(told) == 21


@pytest.mark.parametrize("bad", [(float("nan"), float("nan")), (0.0, float("inf")), (float("-inf"), 1.0)])
def test_an_image_that_breaks_the_network_is_found(bad: tuple[float, float]) -> None:
    images = made_up(30)
    advice = with_one(images, changed(images[3], "conv5", *bad)).advice()
    assert [(one.image, one.tensor) for one in advice.outliers] == [(7, "conv5")]
    assert "more than 100 times further than all others at conv5" in advice.sentences[1]
    assert advice.curve == statistics(images).advice().curve, "it does not count among the ranges"
    assert msgspec.json.decode(msgspec.json.encode(advice), type=Advice) == advice


def test_padding_that_stands_for_infinity_is_no_finding() -> None:
    images = [changed(seen, "padded", float("-inf"), 3.0) for seen in made_up(40)]
    assert statistics(images).advice().outliers == ()


def test_tensors_that_are_mostly_zero_say_nothing() -> None:
    images = [changed(seen, "conv1", 0.0, float(place % 10 == 0)) for place, seen in enumerate(made_up(60))]
    assert statistics(images).advice().outliers == ()


def test_many_outliers_are_listed_shortly() -> None:
    images = made_up(200)
    for place in range(8):
        images[place] = changed(images[place], f"conv{place}", -90.0 - place, 90.0)
    advice = statistics(images).advice()
    assert [one.image for one in advice.outliers] == sorted(
        range(8), key=lambda place: -next(one.distance for one in advice.outliers if one.image == place)
    )
    assert len(advice.sentences) == 1 + 5 + 1
    assert advice.sentences[-1].startswith("3 more images are as unusual: ")


def test_the_same_images_give_the_same_advice() -> None:
    images = made_up(40)
    assert statistics(images).advice() == statistics(images).advice()


def test_what_does_not_fit_is_refused() -> None:
    images = made_up(2)
    with pytest.raises(UsageError, match="no image was observed"):
        ImageStatistics().advice()
    told = statistics(images)
    with pytest.raises(UsageError, match=r"image 5 has other tensors than the first image \(extra\); observe all"):
        told.add(5, {**images[0].extremes, "extra": (0, 1)})
    with pytest.raises(UsageError, match=r"\(conv0, conv1, conv10\); observe all images on one graph"):
        told.add(5, {})
    with pytest.raises(UsageError, match="it has none"):
        ImageStatistics().add(0, {})
    assert len(told) == 2, "what is refused leaves nothing behind"
    assert FEWEST > 2
