"""Choosing calibration, held-back and proof images."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_conversions import write_pictures
from tiny_models import SIZE, picture

from edgekit.arrays import Image
from edgekit.calibration.samples import Samples
from edgekit.calibration.split import MOST_CALIBRATION, MOST_PROOF, digest, split
from edgekit.errors import InputError, UsageError
from edgekit.runtimes.bundle.manifest import ImageRule

RULE = ImageRule(size=(8, 8), resize="stretch")
WHOLE = ImageRule(size=(SIZE, SIZE), resize="stretch")


def stack(folder: Path, kinds: list[int]) -> str:
    """Small images in a file, equal where the numbers are."""
    images = np.stack([np.random.default_rng(kind).integers(0, 256, (8, 8, 3), np.uint8) for kind in kinds])
    np.save(folder / "images.npy", images)
    return str(folder / "images.npy")


def hashes(samples: Samples | None) -> list[str]:
    """The first hex digits of the hash of every image of a stream."""
    return [] if samples is None else [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in samples.images]


@given(st.lists(st.integers(0, 30), min_size=2, max_size=50), st.integers(0, 2**32))
@settings(deadline=None)
def test_the_two_streams_never_share_an_image(kinds: list[int], seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = stack(folder, kinds)
        if len(set(kinds)) == 1:
            with pytest.raises(UsageError, match="no image is left for the proof"):
                split(data, RULE, folder, seed=seed, calibrate=True)
            return
        try:
            done = split(data, RULE, folder, seed=seed, calibrate=True)
        except UsageError:  # all that was picked to judge on is also among the others
            assert len(set(kinds)) < len(kinds)
            return
        held = hashes(done.holdout)
        originals = held[:: len(held) // done.held] if held else []
        calibrated, judged = [*hashes(done.calibration), *originals], hashes(done.proof)
        assert not set(calibrated) & set(judged[:: 2 if done.mirrored else 1])
        assert len(set(calibrated)) == len(calibrated) == len(done.digests)
        assert set(done.digests) == set(calibrated)
        assert done.photographs == len(judged) // (2 if done.mirrored else 1) >= 1
        everything = {hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in np.load(data)}
        assert {*calibrated, *judged[:: 2 if done.mirrored else 1]} == everything


def test_a_choice_comes_back_with_its_seed_and_differs_with_another(tmp_path: Path) -> None:
    data = stack(tmp_path, list(range(100)))
    chosen = []
    for seed in (7, 7, 8):
        done = split(data, RULE, tmp_path, seed=seed, calibrate=True)
        assert done.calibration is not None
        assert done.holdout is not None
        chosen.append((done.digests, done.calibration.sha256(), done.holdout.sha256(), done.proof.sha256()))
    assert chosen[0] == chosen[1]
    assert all(one != other for one, other in zip(chosen[0], chosen[2], strict=True))


def test_the_hash_is_that_of_the_pixels_in_the_order_of_the_source(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 20)
    done = split(str(photos), WHOLE, tmp_path, seed=1, calibrate=True)
    assert done.calibration is not None
    pixels = [picture(seed) for seed in range(20)]
    held = {digest(image) for image in done.holdout.images} if done.holdout else set()
    chosen = [image for image in pixels if digest(image) in done.digests and digest(image) not in held]
    assert (len(chosen), len(held), done.held, len(done.digests)) == (12, 8, 2, 14)  # each in four views
    assert done.calibration.sha256() == hashlib.sha256(b"".join(image.tobytes() for image in chosen)).hexdigest()
    assert done.method == "seeded choice of 12 from 20: photos"


def test_sizes_of_the_streams_are_bounded(tmp_path: Path) -> None:
    data = stack(tmp_path, list(range(MOST_CALIBRATION + MOST_PROOF + 30)))
    done = split(data, RULE, tmp_path, seed=0, calibrate=True)
    assert (len(done.digests), len(done.proof), done.mirrored) == (MOST_CALIBRATION, MOST_PROOF, False)
    without = split(data, RULE, tmp_path, seed=0, calibrate=False)
    assert (without.calibration, without.digests, len(without.proof)) == (None, (), MOST_PROOF)


def test_few_images_are_judged_mirrored_too(tmp_path: Path) -> None:
    done = split(stack(tmp_path, [1, 2, 3]), RULE, tmp_path, seed=0, calibrate=False)
    images = done.proof.images
    assert (done.photographs, len(images), done.mirrored) == (3, 6, True)
    np.testing.assert_array_equal(images[1::2], images[::2, :, ::-1])


def test_few_held_images_are_shown_in_more_views(tmp_path: Path) -> None:
    """The fewer there are, the more: as they are, mirrored, and closer."""
    for images, held, views in ((15, 2, 4), (60, 8, 2), (120, 16, 1)):
        done = split(stack(tmp_path, list(range(images))), RULE, tmp_path, seed=0, calibrate=True)
        assert done.holdout is not None
        assert (done.held, len(done.holdout)) == (held, held * views)
        shown = done.holdout.images[:views]
        if views > 1:
            np.testing.assert_array_equal(shown[1], shown[0][:, ::-1])
        if views == 4:
            closer = np.ascontiguousarray(shown[0][1:7, 1:7])
            for view, expected in zip(shown[2:], (closer, np.ascontiguousarray(closer[:, ::-1])), strict=True):
                np.testing.assert_array_equal(view, cv2.resize(expected, (8, 8)))


def test_one_image_cannot_do_both(tmp_path: Path) -> None:
    said = r"images.npy: 1 image\(s\); int8 needs some for calibration and others for the proof, at least 2 and better"
    with pytest.raises(UsageError, match=said):
        split(stack(tmp_path, [1]), RULE, tmp_path, seed=0, calibrate=True)


def test_one_photograph_under_many_names_cannot_do_both(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 1)
    for number in range(9):
        shutil.copyfile(photos / "000.png", photos / f"copy-{number}.png")
    with pytest.raises(UsageError, match="no image is left for the proof: the proof images are all among"):
        split(str(photos), WHOLE, tmp_path, seed=0, calibrate=True)


def test_other_images_for_the_proof_leave_all_data_to_calibration(tmp_path: Path) -> None:
    photos, others = write_pictures(tmp_path / "photos", 6), write_pictures(tmp_path / "others", 5, first=4)
    done = split(str(photos), WHOLE, tmp_path, seed=0, calibrate=True, proof_data=str(others))
    assert len(done.digests) == 6
    assert done.photographs == 3  # two of the five were calibrated on
    with pytest.raises(UsageError, match="no image is left"):
        split(str(photos), WHOLE, tmp_path, seed=0, calibrate=True, proof_data=str(photos))


def test_what_another_bundle_was_calibrated_on_is_left_out(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 8)
    known = frozenset(digest(picture(seed)) for seed in range(5))
    done = split(str(photos), WHOLE, tmp_path, seed=0, calibrate=False, refuse=known)
    assert done.photographs == 3
    assert not known & set(hashes(done.proof)[::2])
    everything = frozenset(digest(picture(seed)) for seed in range(8))
    with pytest.raises(UsageError, match="no image is left"):
        split(str(photos), WHOLE, tmp_path, seed=0, calibrate=False, refuse=everything)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_bad_image_is_named(tmp_path: Path, content: bytes) -> None:
    photos = write_pictures(tmp_path / "photos", 4)
    (photos / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.png"):
        split(str(photos), WHOLE, tmp_path, seed=0, calibrate=True)


def test_samples_are_normalised_copies(tmp_path: Path) -> None:
    data = stack(tmp_path, [4, 5])
    rule = ImageRule(size=(8, 8), color="rgb", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    tensors = list(Samples(Path(data), rule))
    images: Image = np.load(data)
    assert len(Samples(Path(data), rule)) == 2
    for tensor, image in zip(tensors, images, strict=True):
        rgb = image[..., ::-1].transpose(2, 0, 1)[None] / 255
        expected = (rgb - np.reshape(rule.mean, (1, 3, 1, 1))) / np.reshape(rule.std, (1, 3, 1, 1))
        np.testing.assert_allclose(tensor, expected, atol=1e-6)


def test_a_fifth_is_held_back_where_there_are_enough(tmp_path: Path) -> None:
    for count, held in ((13, 0), (15, 2), (60, 8), (300, 24)):
        folder = tmp_path / str(count)
        folder.mkdir()
        done = split(stack(folder, list(range(count))), RULE, folder, seed=0, calibrate=True)
        assert done.held == held
        assert bool(done.holdout) == bool(held)
        assert not set(hashes(done.holdout)) & set(hashes(done.calibration))


def test_the_end_of_a_video_is_judged_on_and_frames_are_spread(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (32, 32))
    for level in range(40):
        writer.write(np.full((32, 32, 3), 6 * level, np.uint8))
    writer.release()
    done = split(str(path), RULE, tmp_path, seed=0, calibrate=True)
    assert done.calibration is not None
    assert done.holdout is not None
    calibrated = sorted(float(image.mean()) for image in (*done.calibration.images, *done.holdout.images))
    judged = [float(image.mean()) for image in done.proof.images]
    assert max(calibrated) < min(judged)
    assert np.diff(calibrated).max() < 20  # no stretch is left out


def test_the_most_informative_images_are_calibrated_on(tmp_path: Path) -> None:
    kinds = [0] * 40 + [1, 2, 3]  # many of one kind, few of three others
    plain = np.stack([np.full((8, 8, 3), 80 * kind, np.uint8) for kind in kinds])
    plain[np.arange(len(kinds)), np.arange(len(kinds)) % 8, np.arange(len(kinds)) % 7] ^= 1
    np.save(tmp_path / "images.npy", plain)
    done = split(str(tmp_path / "images.npy"), RULE, tmp_path, seed=3, calibrate=True, choose=4)
    assert done.calibration is not None
    assert len(done.calibration) <= 4
    levels = {round(float(image.mean()) / 80) for image in done.calibration.images}
    left = {
        round(float(image.mean()) / 80)
        for image in (*done.proof.images, *(done.holdout.images if done.holdout else ()))
    }
    assert levels >= {0, 1, 2, 3} - left


def test_samples_know_what_their_images_are_called(tmp_path: Path) -> None:
    """A copy is left out, with its name; a view has its photograph's."""
    photos = write_pictures(tmp_path / "photos", 12)
    shutil.copy(photos / "000.png", photos / "twin.png")
    done = split(str(photos), WHOLE, tmp_path, seed=0, calibrate=True)
    assert done.calibration is not None
    names = done.calibration.names
    assert len(names) == len(done.calibration)
    for name, image in zip(names, done.calibration.images, strict=True):
        assert np.array_equal(image, cv2.imread(str(photos / name)))
    assert len(done.proof.names) == len(done.proof)
    assert Samples(tmp_path / "without.npy", WHOLE).names == ()
