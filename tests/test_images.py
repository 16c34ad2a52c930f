"""Resize rules and their inverse, against sizes of every kind; preprocessing against plain float arithmetic."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.arrays import Image
from edgekit.errors import InputError
from edgekit.runtimes.bundle.manifest import ImageRule
from edgekit.runtimes.inputs.images import STRIP, Preprocessor, check, tables, transform
from edgekit.runtimes.inputs.resampling import resample

MOST_WIDTH, MOST_HEIGHT = 5000, 3000
RESIZES = ("letterbox", "stretch", "crop")
EDGES = (1, 2, 3, 5, 7, 31, 63, 64, 65, 319, 320, 321, 351, 352, 353, 427, 639, 640, 641, 1079, 1080, 1919, 2999)
INPUTS = ((640, 640), (352, 352), (320, 416), (417, 333), (33, 97), (1, 1))

resizes = st.sampled_from(RESIZES)
aligns = st.sampled_from(("center", "corner"))
# Inputs of 32 pixels a side or more: in a letterbox of 259x1 three pixels hold 4360, beyond the digits of float32.
inputs = st.one_of(st.sampled_from(INPUTS), st.tuples(st.integers(32, 1280), st.integers(32, 1280)))
sizes = st.tuples(st.integers(1, MOST_WIDTH), st.integers(1, MOST_HEIGHT))


def rule(resize: str = "letterbox", size: tuple[int, int] = (640, 640), **rest: object) -> ImageRule:
    return ImageRule(size=size, resize=resize, **rest)  # type: ignore[arg-type]


def probe_boxes(width: int, height: int) -> np.ndarray:
    """The whole image, its corners, and a grid of odd positions."""
    xs = np.array([0, 0.5, 1, width / 3, width / 2, width * 0.77, width - 0.25, width])
    ys = np.array([0, 0.25, 1, height / 7, height / 2, height * 0.9, height - 0.5, height])
    boxes = np.stack([np.minimum(xs, width), np.minimum(ys, height), np.full(8, width), np.full(8, height)], axis=1)
    return np.concatenate([boxes, [[0, 0, width, height], [0, 0, 1, 1]]]).astype(np.float32)


def assert_round_trip(resize: str, size: tuple[int, int], width: int, height: int) -> None:
    mapping = transform(rule(resize, size), width, height)
    boxes = probe_boxes(width, height)
    back = mapping.to_original(mapping.to_input(boxes), clip=False)
    assert np.abs(back - boxes).max() <= 0.01, (resize, size, width, height)
    assert back.dtype == np.float32


class TestRoundTrip:
    @settings(deadline=None)
    @given(resizes, inputs, sizes, st.data())
    def test_any_box_comes_back_within_a_hundredth_of_a_pixel(
        self, resize: str, size: tuple[int, int], original: tuple[int, int], data: st.DataObject
    ) -> None:
        width, height = original
        mapping = transform(rule(resize, size), width, height)
        corner = st.tuples(st.floats(0, width, width=32), st.floats(0, height, width=32))
        boxes = np.array([[*data.draw(corner), *data.draw(corner)]], np.float32)
        assert np.abs(mapping.to_original(mapping.to_input(boxes), clip=False) - boxes).max() <= 0.01
        assert np.abs(mapping.to_original(mapping.to_input(boxes)) - boxes).max() <= 0.01
        assert_round_trip(resize, size, width, height)

    @pytest.mark.parametrize("resize", RESIZES)
    def test_every_width_and_every_height(self, resize: str) -> None:
        for width in range(1, MOST_WIDTH + 1):
            assert_round_trip(resize, (640, 640), width, EDGES[width % len(EDGES)])
        for height in range(1, MOST_HEIGHT + 1):
            assert_round_trip(resize, (640, 640), EDGES[height % len(EDGES)], height)

    @pytest.mark.parametrize("resize", RESIZES)
    @pytest.mark.parametrize("size", INPUTS)
    def test_all_pairs_of_edge_sizes(self, resize: str, size: tuple[int, int]) -> None:
        for width, height in itertools.product((*EDGES, 4999, 5000), (*EDGES, 3000)):
            assert_round_trip(resize, size, width, height)

    def test_rounding_to_float32_would_be_seen(self) -> None:
        """Negative control: the same map in float16 misses the bound by far."""
        mapping = transform(rule(), 5000, 3000)
        boxes = probe_boxes(5000, 3000)
        coarse = mapping.to_input(boxes).astype(np.float16).astype(np.float32)
        assert np.abs(mapping.to_original(coarse, clip=False) - boxes).max() > 0.01

    def test_boxes_are_clipped_to_the_original(self) -> None:
        mapping = transform(rule(), 100, 50)
        outside = np.array([[-10, -10, 700, 700]], np.float32)
        assert mapping.to_original(outside).tolist() == [[0, 0, 100, 50]]
        assert mapping.to_original(outside, clip=False)[0, 1] < 0

    def test_no_boxes(self) -> None:
        mapping = transform(rule(), 100, 50)
        assert mapping.to_original(np.zeros((0, 4), np.float32)).shape == (0, 4)


class TestGeometry:
    @settings(deadline=None)
    @given(inputs, sizes)
    def test_letterbox_shows_all_of_the_image_as_large_as_fits(
        self, size: tuple[int, int], original: tuple[int, int]
    ) -> None:
        mapping = transform(rule("letterbox", size), *original)
        (width, height), (target_height, target_width) = mapping.resized, size
        assert width <= target_width
        assert height <= target_height
        assert width == target_width or height == target_height
        assert 0 <= mapping.offset_x <= target_width - width
        assert 0 <= mapping.offset_y <= target_height - height
        ratio = min(target_width / original[0], target_height / original[1])
        assert width == max(1, round(original[0] * ratio))
        assert height == max(1, round(original[1] * ratio))
        # centred to the pixel
        assert abs((target_width - width) - 2 * mapping.offset_x) <= 1
        assert abs((target_height - height) - 2 * mapping.offset_y) <= 1

    @settings(deadline=None)
    @given(inputs, sizes, st.data())
    def test_a_corner_letterbox_is_the_centred_one_moved(
        self, size: tuple[int, int], original: tuple[int, int], data: st.DataObject
    ) -> None:
        centred, cornered = (transform(rule(size=size, align=align), *original) for align in ("center", "corner"))
        assert (cornered.offset_x, cornered.offset_y) == (0, 0)
        assert (cornered.resized, cornered.scale_x, cornered.scale_y) == (
            centred.resized,
            centred.scale_x,
            centred.scale_y,
        )
        corner = st.tuples(st.floats(0, original[0], width=32), st.floats(0, original[1], width=32))
        boxes = np.array([[*data.draw(corner), *data.draw(corner)]], np.float32)
        assert np.abs(cornered.to_original(cornered.to_input(boxes), clip=False) - boxes).max() <= 0.01

    @settings(deadline=None)
    @given(
        aligns,
        st.tuples(st.integers(1, 97), st.integers(1, 97)),
        st.tuples(st.integers(1, 150), st.integers(1, 150)),
        st.integers(0, 255),
    )
    def test_padding_is_what_copy_make_border_adds(
        self, align: str, size: tuple[int, int], original: tuple[int, int], pad: int
    ) -> None:
        """The whole input against OpenCV's own padding, on sizes that are odd in every way."""
        width, height = original
        image = np.random.default_rng(width * 151 + height).integers(1, 255, (height, width, 3), dtype=np.uint8)
        ratio = min(size[0] / height, size[1] / width)
        inner = cv2.resize(image, (max(1, round(width * ratio)), max(1, round(height * ratio))))
        below, right = size[0] - inner.shape[0], size[1] - inner.shape[1]
        above, left = (0, 0) if align == "corner" else (below // 2, right // 2)
        border = (above, below - above, left, right - left)
        expected = cv2.copyMakeBorder(inner, *border, cv2.BORDER_CONSTANT, value=(pad,) * 3)
        found, mapping = Preprocessor(rule(size=size, align=align, pad=pad)).resize(image)
        assert np.array_equal(found, expected)
        whole = mapping.to_input(np.array([[0, 0, width, height]], np.float32))[0]
        assert np.allclose(whole, [left, above, left + inner.shape[1], above + inner.shape[0]], atol=1e-3)

    def test_align_goes_with_a_letterbox(self) -> None:
        with pytest.raises(
            ValueError, match="align must be left out with resize: stretch, not corner: only a letterbox"
        ):
            rule("stretch", align="corner")
        assert rule("stretch", align="center").align == "center"  # what every manifest of a stretch says

    @settings(deadline=None)
    @given(inputs, sizes)
    def test_crop_covers_the_input_with_the_middle_of_the_image(
        self, size: tuple[int, int], original: tuple[int, int]
    ) -> None:
        mapping = transform(rule("crop", size), *original)
        (width, height), (target_height, target_width) = mapping.resized, size
        assert width >= target_width
        assert height >= target_height
        assert width == target_width or height == target_height
        assert target_width - width <= mapping.offset_x <= 0
        assert target_height - height <= mapping.offset_y <= 0

    def test_known_numbers(self) -> None:
        """The photograph of 810x1080 that YOLO tutorials use: 480x640 in the middle, 80 grey columns on each side."""
        mapping = transform(rule(), 810, 1080)
        assert (mapping.resized, mapping.offset_x, mapping.offset_y) == ((480, 640), 80, 0)
        assert mapping.to_input(np.array([[0, 0, 810, 1080]], np.float32)).tolist() == [[80, 0, 560, 640]]
        crop = transform(rule("crop", (224, 224)), 640, 480)
        assert (crop.resized, crop.offset_x, crop.offset_y) == ((299, 224), -38, 0)
        classifier = transform(rule("crop", (224, 224), crop=0.875), 640, 480)  # 256, of which 224 are kept
        assert (classifier.resized, classifier.offset_x, classifier.offset_y) == ((341, 256), -59, -16)
        stretch = transform(rule("stretch", (352, 320)), 640, 704)
        assert (stretch.scale_x, stretch.scale_y, stretch.offset_x, stretch.offset_y) == (0.5, 0.5, 0, 0)


def marked(width: int, height: int, box: tuple[int, int, int, int]) -> Image:
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def edges(profile: np.ndarray) -> tuple[float, float]:
    """Where a bright run begins and ends, to a fraction of a pixel, by its mass and its centre."""
    bright = profile.astype(np.float64) / 255
    mass, centre = bright.sum(), (bright * (np.arange(len(bright)) + 0.5)).sum() / bright.sum()
    return centre - mass / 2, centre + mass / 2


class TestPixelsLandWhereTheTransformSays:
    @pytest.mark.parametrize("resize", RESIZES)
    @pytest.mark.parametrize(
        "original",
        [(640, 640), (810, 1080), (1080, 811), (333, 77), (1279, 1277), (101, 1501), (1901, 97), (5000, 3000)],
    )
    @pytest.mark.parametrize("size", [(640, 640), (417, 333), (352, 352)])
    def test_a_marker_is_found_at_its_mapped_box(
        self, resize: str, original: tuple[int, int], size: tuple[int, int]
    ) -> None:
        width, height = original
        middle = (width // 2, height // 2)
        reach = (max(8, min(width, height) // 5), max(8, min(width, height) // 5))
        box = (middle[0] - reach[0], middle[1] - reach[1] + 2, middle[0] + reach[0] - 3, middle[1] + reach[1])
        preprocess = Preprocessor(rule(resize, size, pad=0))
        seen, mapping = preprocess.resize(marked(width, height, box))
        assert seen.shape == (*size, 3)
        x1, y1, x2, y2 = mapping.to_input(np.array([box], np.float32))[0]
        # Linear resampling keeps the centre and mass of a run when enlarging; reducing may round an edge to a pixel.
        tolerance = 0.1 if min(mapping.scale_x, mapping.scale_y) >= 1 else 0.75
        rows, cols = seen[..., 0].max(axis=1), seen[..., 0].max(axis=0)
        assert edges(cols) == pytest.approx((max(x1, 0), min(x2, size[1])), abs=tolerance)
        assert edges(rows) == pytest.approx((max(y1, 0), min(y2, size[0])), abs=tolerance)

    @settings(deadline=None)
    @given(st.integers(1, 300), st.integers(1, 300), resizes, st.sampled_from([(64, 64), (37, 91), (8, 8)]))
    @example(1, 300, "crop", (64, 64))
    @example(300, 1, "crop", (64, 64))
    @example(1, 1, "letterbox", (64, 64))
    @example(300, 1, "letterbox", (64, 64))
    @example(1, 300, "letterbox", (37, 91))
    def test_a_ramp_has_at_each_pixel_the_value_of_its_place(
        self, width: int, height: int, resize: str, size: tuple[int, int]
    ) -> None:
        """A linear ramp is resampled exactly by linear interpolation, so every pixel tells where it came from."""
        image = np.zeros((height, width, 3), np.uint8)
        image[..., 0] = np.linspace(0, 200, width).round()[None, :] if width > 1 else 100
        image[..., 1] = np.linspace(0, 200, height).round()[:, None] if height > 1 else 100
        image[..., 2] = 250
        seen, mapping = Preprocessor(rule(resize, size, pad=7)).resize(image)
        inside = seen[..., 2] == 250
        left, top = max(0, int(mapping.offset_x)), max(0, int(mapping.offset_y))
        right, bottom = min(size[1], left + mapping.resized[0]), min(size[0], top + mapping.resized[1])
        expected_inside = np.zeros(size, bool)
        expected_inside[top:bottom, left:right] = True
        assert np.array_equal(inside, expected_inside)
        assert (seen[~inside] == 7).all()
        x = (np.arange(left, right) + 0.5 - mapping.offset_x) / mapping.scale_x - 0.5
        y = (np.arange(top, bottom) + 0.5 - mapping.offset_y) / mapping.scale_y - 0.5
        part = seen[top:bottom, left:right].astype(np.float64)
        along_x = np.interp(x, np.arange(width), image[0, :, 0].astype(np.float64))
        along_y = np.interp(y, np.arange(height), image[:, 0, 1].astype(np.float64))
        # 1 for the rounding of the result, and what 1/32 of a pixel is worth where the sampling grid is that coarse
        step_x = 1.01 + np.abs(np.diff(image[0, :, 0].astype(float))).max(initial=0) / 32
        step_y = 1.01 + np.abs(np.diff(image[:, 0, 1].astype(float))).max(initial=0) / 32
        assert np.abs(part[..., 0] - along_x[None, :]).max() <= step_x
        assert np.abs(part[..., 1] - along_y[:, None]).max() <= step_y

    def test_the_ends_of_the_range_of_sizes_run(self) -> None:
        for resize, original in itertools.product(RESIZES, [(1, 1), (1, 3000), (5000, 1), (5000, 3000), (4999, 2999)]):
            image = np.full((original[1], original[0], 3), 200, np.uint8)
            seen, mapping = Preprocessor(rule(resize, pad=9)).resize(image)
            assert seen.shape == (640, 640, 3)
            shown = np.count_nonzero((seen == 200).all(axis=2))
            assert shown == min(640, mapping.resized[0]) * min(640, mapping.resized[1])

    @pytest.mark.parametrize("original", [(60, 900), (900, 61), (1999, 40), (33, 700)])
    def test_a_strip_is_cropped_to_the_pixels_that_the_whole_would_give(self, original: tuple[int, int]) -> None:
        generator = np.random.default_rng(3)
        coarse = generator.integers(0, 256, (9, 11, 3), dtype=np.uint8)
        image = np.asarray(cv2.resize(coarse, original, interpolation=cv2.INTER_CUBIC), np.uint8)
        seen, mapping = Preprocessor(rule("crop", (64, 64))).resize(image)
        assert mapping.resized[0] * mapping.resized[1] > STRIP * 64 * 64, "this test is about the direct sampling"
        left, top = -int(mapping.offset_x), -int(mapping.offset_y)
        whole = np.asarray(cv2.resize(image, mapping.resized))[top : top + 64, left : left + 64]
        assert np.abs(seen.astype(int) - whole.astype(int)).max() <= 2


def oracle(image: Image, spec: ImageRule) -> np.ndarray:
    """The input tensor in plain float64 arithmetic, straight from the definition of the rule."""
    mapping = transform(spec, image.shape[1], image.shape[0])
    height, width = spec.size
    if spec.interpolation != "linear":
        resized = resample(
            image, mapping.resized, spec.interpolation
        )  # tests/test_resampling.py holds it against Pillow's
    else:
        resized = np.asarray(cv2.resize(image, mapping.resized, interpolation=cv2.INTER_LINEAR), np.uint8)
    canvas = np.full((height, width, 3), spec.pad, np.uint8)
    left, top = int(mapping.offset_x), int(mapping.offset_y)
    if spec.resize == "crop":
        canvas[...] = resized[-top : -top + height, -left : -left + width]
    else:
        canvas[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    pixels = canvas.astype(np.float64)
    if spec.color == "rgb":
        pixels = pixels[:, :, ::-1]
    pixels = (pixels * spec.scale - np.array(spec.mean)) / np.array(spec.std)
    return pixels.transpose(2, 0, 1)[None]


RULES = [
    rule(),
    rule("stretch", (352, 352), color="bgr"),
    rule("crop", (224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    rule("crop", (224, 160), crop=0.875),
    rule("letterbox", (320, 416), color="bgr", scale=1.0, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395)),
    rule("letterbox", (97, 33), scale=1 / 127.5, mean=(1.0, 1.0, 1.0), pad=0),
    rule("letterbox", (64, 48), color="bgr", scale=1.0, align="corner"),
    rule("stretch", (192, 192), scale=1.0),
    rule("stretch", (64, 48), interpolation="bicubic"),
    rule("crop", (64, 48), crop=0.9, interpolation="bicubic"),
    rule("letterbox", (64, 48), interpolation="bicubic"),
    rule("crop", (64, 48), crop=0.9, interpolation="bilinear"),
]


class TestPreprocessor:
    @pytest.mark.parametrize(
        "spec", RULES, ids=lambda spec: f"{spec.resize}-{spec.color}-{spec.scale:.3g}-{spec.interpolation}"
    )
    @pytest.mark.parametrize("original", [(640, 480), (481, 639), (50, 300), (1, 1), (1200, 1600)])
    def test_equals_plain_arithmetic(self, spec: ImageRule, original: tuple[int, int]) -> None:
        image = np.random.default_rng(0).integers(0, 256, (original[1], original[0], 3), dtype=np.uint8)
        tensor, _ = Preprocessor(spec)(image)
        assert tensor.dtype == np.float32
        assert tensor.shape == (1, 3, *spec.size)
        assert tensor.flags.c_contiguous
        np.testing.assert_allclose(tensor, oracle(image, spec), rtol=1e-6, atol=1e-6)

    def test_channel_order_is_not_symmetric(self) -> None:
        """Negative control: rgb and bgr differ on a coloured image, and blue comes last in rgb."""
        blue = np.zeros((8, 8, 3), np.uint8)
        blue[..., 0] = 255
        rgb, _ = Preprocessor(rule("stretch", (8, 8)))(blue)
        bgr, _ = Preprocessor(rule("stretch", (8, 8), color="bgr"))(blue)
        assert rgb[0, :, 0, 0].tolist() == [0, 0, 1]
        assert bgr[0, :, 0, 0].tolist() == [1, 0, 0]

    @pytest.mark.parametrize("resize", RESIZES)
    def test_reused_buffers_leave_no_trace_of_the_image_before(self, resize: str) -> None:
        generator = np.random.default_rng(1)
        spec = rule(resize, (96, 128))
        reused = Preprocessor(spec)
        shapes = [(80, 60), (60, 80), (128, 96), (1, 400), (400, 1), (60, 80), (128, 97), (7, 7), (60, 80), (60, 81)]
        for width, height in shapes:
            image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            again, _ = reused(image)
            fresh, _ = Preprocessor(spec)(image)
            assert np.array_equal(again, fresh), (resize, width, height)

    def test_the_tensor_is_reused_and_the_image_is_left_alone(self) -> None:
        preprocess = Preprocessor(rule("letterbox", (32, 32)))
        image = np.full((20, 30, 3), 50, np.uint8)
        before = image.copy()
        first, _ = preprocess(image)
        second, _ = preprocess(np.full((20, 30, 3), 60, np.uint8))
        assert first is second
        assert np.array_equal(image, before)

    @pytest.mark.parametrize(
        "view",
        [
            lambda image: image[..., ::-1],
            lambda image: image[:, ::-1],
            lambda image: image[::2, 1::3],
            lambda image: image.transpose(1, 0, 2),
            lambda image: np.asfortranarray(image),
            lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
        ],
        ids=["channels-reversed", "mirrored", "strided", "transposed", "fortran", "read-only"],
    )
    def test_views_are_as_good_as_copies(self, view: object) -> None:
        image = np.random.default_rng(2).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        seen = view(image)  # type: ignore[operator]
        tensor, _ = Preprocessor(rule(size=(64, 64)))(seen)
        copied, _ = Preprocessor(rule(size=(64, 64)))(np.ascontiguousarray(seen))
        assert np.array_equal(tensor, copied)

    def test_tables_hold_every_level(self) -> None:
        spec = rule(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
        values = tables(spec)
        assert values.shape == (3, 256)
        assert values[2, 255] == np.float32((1 - 0.3) / 0.7)
        assert values[0, 0] == np.float32(-0.1 / 0.5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("image", "says"),
        [
            ([[1, 2]], "numpy array, not list"),
            ("photo.jpg", "numpy array, not str"),
            (np.zeros((4, 4, 3), np.float32), r"not float32 \(4, 4, 3\)"),
            (np.zeros((4, 4), np.uint8), r"not uint8 \(4, 4\)"),
            (np.zeros((4, 4, 4), np.uint8), r"not uint8 \(4, 4, 4\)"),
            (np.zeros((1, 4, 4, 3), np.uint8), r"not uint8 \(1, 4, 4, 3\)"),
            (np.zeros((0, 4, 3), np.uint8), r"not uint8 \(0, 4, 3\)"),
        ],
    )
    def test_what_is_not_an_image_is_named(self, image: object, says: str) -> None:
        with pytest.raises(InputError, match=says):
            check(image)
        with pytest.raises(InputError, match=says):
            Preprocessor(rule())(image)  # type: ignore[arg-type]
