"""Seed one defect at a time into a copy of the package, and see which test of the short suite catches it.

    python tests/seeded_defects.py              # all of them
    python tests/seeded_defects.py ncnn kalman  # those whose name or file contains one of the words

It prints a Markdown table and exits with 1 where a defect survives, or where the text that it replaces is not in its
file exactly once. The working tree is never touched.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

ROOT = Path(__file__).parents[1]
SECONDS = 180.0
"""A test that takes longer has caught nothing."""


@dataclass(frozen=True)
class Defect:
    """``old`` becomes ``new`` in ``file`` (below ``edgekit/``), which ``test`` (below ``tests/``) has to notice."""

    name: str
    file: str
    old: str
    new: str
    test: str


IMAGES = (
    Defect(
        "letterbox: padding off by one pixel",
        "runtimes/inputs/images.py",
        "(target_width - resized[0]) // 2, (target_height - resized[1]) // 2",
        "(target_width - resized[0] + 1) // 2, (target_height - resized[1] + 1) // 2",
        "test_images.py::TestGeometry::test_padding_is_what_copy_make_border_adds",
    ),
    Defect(
        "letterbox: align=corner ignored",
        "runtimes/inputs/images.py",
        'if rule.align == "center":',
        "if rule.align:",
        "test_images.py::TestGeometry::test_a_corner_letterbox_is_the_centred_one_moved",
    ),
    Defect(
        "half a pixel in the way back to the original",
        "runtimes/inputs/images.py",
        "mapped = ((np.asarray(boxes, np.float64) - offset) / scale).astype(np.float32)",
        "mapped = ((np.asarray(boxes, np.float64) + 0.5 - offset) / scale).astype(np.float32)",
        "test_images.py::TestRoundTrip::test_any_box_comes_back_within_a_hundredth_of_a_pixel",
    ),
    Defect(
        "BGR and RGB swapped",
        "runtimes/inputs/images.py",
        'order = (2, 1, 0) if self.rule.color == "rgb"',
        'order = (2, 1, 0) if self.rule.color == "bgr"',
        "test_images.py::TestPreprocessor::test_equals_plain_arithmetic",
    ),
    Defect(
        "pixels not scaled",
        "runtimes/inputs/images.py",
        "levels = np.arange(256, dtype=np.float64) * rule.scale",
        "levels = np.arange(256, dtype=np.float64)",
        "test_images.py::TestPreprocessor::test_equals_plain_arithmetic",
    ),
    Defect(
        "stale canvas: padding of the image before",
        "runtimes/inputs/images.py",
        "if (width, height) != self._covered:",
        "if self._covered == (0, 0):",
        "test_images.py::TestPreprocessor::test_reused_buffers_leave_no_trace_of_the_image_before",
    ),
)

RESULTS = (
    Defect(
        "NMS across classes",
        "runtimes/tasks/nms.py",
        "groups = np.zeros(len(order), np.int32) if class_agnostic else class_ids[order].astype(np.int32)",
        "groups = np.zeros(len(order), np.int32)",
        "test_decoders.py::test_nms_by_hand",
    ),
    Defect(
        "DFL: softmax over the sides and not the bins",
        "runtimes/tasks/decoders/anchor_free.py",
        "softmax(distances, 1)",
        "softmax(distances, 0)",
        "test_decoders.py::test_oracle",
    ),
    Defect(
        "every level decoded with the first stride",
        "runtimes/tasks/decoders/anchor_free.py",
        "corners * np.float32(stride), sigmoid",
        "corners * np.float32(options.strides[0]), sigmoid",
        "test_decoders.py::test_oracle",
    ),
    Defect(
        "keypoint offsets: x and y swapped",
        "runtimes/tasks/decoders/movenet.py",
        "cells % columns + refined[:, 1]",
        "cells % columns + refined[:, 0]",
        "test_pose_decoders.py::test_movenet_is_what_its_own_graph_decodes",
    ),
    Defect(
        "masks cut at the logit 0.5 and not at 0",
        "runtimes/tasks/segment.py",
        "crops.append(np.asarray(fine) > 0)",
        "crops.append(np.asarray(fine) > 0.5)",
        "test_segment_classify.py::test_masks_are_those_of_a_plain_computation",
    ),
    Defect(
        "masks half a cell off",
        "runtimes/inputs/images.py",
        "[scale[0], 0.0, offset[0] + (scale[0] - 1) / 2]",
        "[scale[0], 0.0, offset[0]]",
        "test_segment_classify.py::test_masks_are_those_of_a_plain_computation",
    ),
    Defect(
        "RLE row by row and not column by column",
        "runtimes/results/rle.py",
        "(left + columns) * height + top + rows for",
        "(top + rows) * width + left + columns for",
        "test_results_masks.py::TestRunLengths",
    ),
    Defect(
        "track ids given twice",
        "runtimes/tracking/base.py",
        "self._next_id += count",
        "self._next_id = 1 + count",
        "test_tracking.py::test_every_object_keeps_one_id_at_any_frame_rate",
    ),
    Defect(
        "Kalman filter: velocity corrected the wrong way",
        "runtimes/tracking/kalman.py",
        "new[POSITION:VARIANCE] += gains * (measured - state[POSITION])",
        "new[POSITION:VARIANCE] += gains * (measured - state[POSITION]) * [[[1]], [[-1]]]",
        "test_tracking.py::test_every_object_keeps_one_id_at_any_frame_rate",
    ),
)

SOURCES = (
    Defect(
        "ONNX source: bias of a convolution dropped",
        "sources/onnx/windows.py",
        'bias = step.operand(2) if step.has(2) else None\n    group = step.attribute("group", 1)',
        'bias = None\n    group = step.attribute("group", 1)',
        "test_source_onnx_operators.py::test_conv",
    ),
    Defect(
        "heads cut with the coarsest level first",
        "graph/heads.py",
        "key=lambda size: -size[0] * size[1]",
        "key=lambda size: size[0] * size[1]",
        "test_heads.py::test_fused_tails_are_cut_at_the_raw_heads",
    ),
    Defect(
        "manifest structures take unknown keys",
        "runtimes/bundle/manifest.py",
        "class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):",
        "class Record(msgspec.Struct, frozen=True):",
        "test_contract_file.py::test_every_mistake_is_named_by_line_and_path",
    ),
)

QUANTISATION = (
    Defect(
        "weights rounded per tensor and not per channel",
        "calibration/grid.py",
        "[other for other in range(weight.ndim) if other != axis]",
        "list(range(weight.ndim))",
        "test_rounding.py::test_every_quantiser_finds_the_same_integers_again",
    ),
    Defect(
        "bias correction with the wrong sign",
        "calibration/rounding.py",
        "_add_to_bias(module, self.layer, -shift)",
        "_add_to_bias(module, self.layer, shift)",
        "test_rounding.py::test_the_corrected_bias_keeps_the_mean_of_each_channel_borders_included",
    ),
    Defect(
        "equalization not undone in the next layer",
        "calibration/equalization.py",
        "            weight.div_(inputs.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2)))\n",
        "",
        "test_equalization.py::test_the_function_stays_and_the_channels_become_equal",
    ),
    Defect(
        "a photograph calibrated on and judged on",
        "calibration/split.py",
        "known = refuse | seen",
        "known = refuse",
        "test_split.py::test_one_photograph_under_many_names_cannot_do_both",
    ),
    Defect(
        "judged again on what was calibrated on",
        "calibration/split.py",
        "known = refuse | seen",
        "known = frozenset(seen)",
        "test_split.py::test_what_another_bundle_was_calibrated_on_is_left_out",
    ),
    Defect(
        "NaN taken for a finite value",
        "calibration/observation.py",
        "if np.isnan(both).any() or (name in finite and np.isinf(both).any()):",
        "if name in finite and np.isinf(both).any():",
        "test_observation.py::test_nan_is_refused_with_the_tensor_and_the_image",
    ),
    Defect(
        "QDQ: zero point with the wrong sign",
        "calibration/qdq.py",
        "np.rint(-low / scale)",
        "np.rint(low / scale)",
        "test_explicit.py::test_activations_lie_on_the_grid_of_their_range",
    ),
    Defect(
        "extremes of the last sample only",
        "calibration/ranges.py",
        "self.low, self.high = min(self.low, low), max(self.high, high)",
        "self.low, self.high = min(0.0, low), max(0.0, high)",
        "test_fitting.py::test_extremes_are_those_of_all_samples",
    ),
)

TARGETS = (
    Defect(
        "ncnn: range of a layer's output for its input",
        "converters/ncnn/int8.py",
        "plan.tensors[site.input].limit",
        "plan.tensors[site.name].limit",
        "test_ncnn.py::test_convolutions_read_the_ranges_of_the_plan_and_its_floats_stay_float",
    ),
    Defect(
        "ncnn: Winograd sums may overflow",
        "converters/ncnn/int8.py",
        "_WINOGRAD_SUM = (2**31 - 1) // 576",
        "_WINOGRAD_SUM = 2**31 - 1",
        "test_ncnn.py::test_winograd_does_not_overflow_on_the_worst_input",
    ),
    Defect(
        "litert: NHWC outputs with height and width swapped",
        "runtimes/engines/litert.py",
        "array.transpose(0, 3, 1, 2) if self._swap",
        "array.transpose(0, 3, 2, 1) if self._swap",
        "test_litert.py::test_channel_last_files_take_and_give_nchw",
    ),
    Defect(
        "litert: the batch goes to the last dimension of a reshape",
        "converters/litert/shapes.py",
        "return [after[0] * op.batch, *after[1:]]",
        "return [*after[:-1], after[-1] * op.batch]",
        "test_litert_signatures.py::test_each_signature_computes_what_it_should",
    ),
    Defect(
        "tensorrt: every batch and size in the first profile",
        "runtimes/engines/tensorrt/__init__.py",
        "profile = self._profiles.index(shape) if shape else 0",
        "profile = 0",
        "test_tensorrt_device.py::test_several_inputs_have_a_profile_and_a_context_each",
    ),
    Defect(
        "hard swish is kept where it loses",
        "conversion/replace_silu.py",
        "if own.quality - other.quality > HARMLESS",
        "if other.quality - own.quality > HARMLESS",
        "test_replace_silu.py::test_hard_swish_stays_where_it_loses_nothing_and_is_faster",
    ),
    Defect(
        "mnn: calibrates in the wrong colour order",
        "converters/mnn/__init__.py",
        '"format": rule.color.upper()',
        '"format": "RGB" if rule.color == "bgr" else "BGR"',
        "test_mnn.py::test_the_quantiser_is_told_of_colours_as_the_contract_has_them",
    ),
    Defect(
        "executorch: zero point off by one",
        "converters/executorch/int8.py",
        "np.rint(-128 - low / scale)",
        "np.rint(-127 - low / scale)",
        "test_executorch.py::test_int8_has_the_plans_ranges_and_no_calibration_pass",
    ),
    Defect(
        "coreml: zero point behind the scale",
        "emulators/coreml/constexpr.py",
        "(data.astype(np.float32) - zero) * scale",
        "data.astype(np.float32) * scale - zero",
        "test_coreml_package.py::test_compressed_weights_are_what_coremltools_makes_of_them",
    ),
    Defect(
        "onnx: outputs in the order of the file",
        "runtimes/engines/onnxruntime/session.py",
        "self.session.run(self._outputs, feeds)",
        "self.session.run(None, feeds)",
        "test_runtimes.py::test_outputs_are_right_and_in_the_order_of_the_contract",
    ),
    Defect(
        "openvino: computes in what the CPU likes best",
        "runtimes/engines/openvino/session.py",
        'wanted["INFERENCE_PRECISION_HINT"] = "f32"',
        'wanted["INFERENCE_PRECISION_HINT"] = "f16"',
        "test_runtimes.py::test_placement_names_the_device_and_counts_operators",
    ),
    Defect(
        "tensorrt: cached engine taken without its hash",
        "runtimes/engines/tensorrt/cache.py",
        "or header.sha256 != hashlib.sha256(plan).hexdigest()",
        "",
        "test_tensorrt_device.py::test_what_cannot_be_trusted_is_built_again",
    ),
    Defect(
        "tensorrt: cache key without the build settings",
        "runtimes/engines/tensorrt/__init__.py",
        'settings=msgspec.json.encode(settings, order="sorted").decode()',
        'settings=""',
        "test_tensorrt_device.py::test_an_engine_serves_one_device_version_and_file",
    ),
    Defect(
        "ethosu: zero point of the outputs forgotten",
        "runtimes/engines/ethosu.py",
        "(steps.astype(np.float32) - self._zero) * self._scale",
        "steps.astype(np.float32) * self._scale",
        "test_ethosu.py::test_the_emulator_gives_torchs_outputs_in_the_contracts_order",
    ),
    Defect(
        "rknn: simulated silently where the NPU is not",
        "runtimes/engines/__init__.py",
        '    if spec.missing:\n        raise EngineError(f"engine {spec.name} {spec.missing}{hint(spec.name)}")',
        "    if spec.missing and (found := substitute(spec.name)):\n        return found",
        "test_rknn.py::test_the_npu_is_not_here",
    ),
    Defect(
        "rknn: tensors that share a range get the last one",
        "converters/rknn/int8.py",
        "low, high = min(one.low for one in members), max(one.high for one in members)",
        "low, high = members[-1].low, members[-1].high",
        "test_rknn.py::test_tensors_that_share_a_range_go_on_sharing_one",
    ),
    Defect(
        "qnn: 16 bits read as 8",
        "converters/qnn/int8.py",
        "others = readers[name] - wide if made_wide else readers[name] & wide",
        "others = readers[name] & wide if made_wide else readers[name] - wide",
        "test_qnn.py::test_every_operator_stands_between_integers_of_one_width",
    ),
    Defect(
        "imx500: pixels divided by 255 and not by 256",
        "converters/imx500/network.py",
        "gain = [256 * rule.scale / std for std in rule.std]",
        "gain = [255 * rule.scale / std for std in rule.std]",
        "test_imx500.py::test_the_network_takes_the_cameras_pixels",
    ),
)

PROOF = (
    Defect(
        "a slower INT8 called faster",
        "runtimes/bundle/manifest.py",
        "return not self.noisy and self.high < 1 and self.ratio < FASTER",
        "return not self.noisy and self.ratio < 2 * FASTER",
        "test_speed.py::test_what_is_said_of_a_ratio",
    ),
    Defect(
        "small objects lost without a word",
        "evaluation/object_sizes.py",
        "if measured.matched < least:",
        "if measured.matched < 0:",
        "test_control.py::test_a_bundle_that_loses_only_small_objects_fails_by_their_size_alone",
    ),
    Defect(
        "a negative control that nobody looks at",
        "conversion/control.py",
        "    if not failures:",
        "    if False:",
        "test_control.py::test_a_comparison_of_the_source_with_itself_is_an_error",
    ),
    Defect(
        "oriented boxes: the sides exchanged without a quarter of a turn",
        "runtimes/tasks/rotated.py",
        "np.where(tall, np.pi / 2, 0)",
        "np.where(tall, 0, 0)",
        "test_rotated.py",
    ),
    Defect(
        "gate compares the wrong way round",
        "evaluation/agreement.py",
        "if decoded.matched < gate.matched:",
        "if decoded.matched > gate.matched:",
        "test_agreement.py",
    ),
    Defect(
        "evidence always passes",
        "conversion/evidence.py",
        "passed=not failures,",
        "passed=True,",
        "test_vision_language_conversion.py::test_outside_its_gate_nothing_is_written_and_the_graphs_are_kept",
    ),
    Defect(
        "written in spite of its gate",
        "conversion/bundle_builder.py",
        "best)\n                if not evidence.passed and self._request.gated:",
        "best)\n                if not evidence.passed and self._request.gates:",
        "test_vision_language_conversion.py::test_outside_its_gate_nothing_is_written_and_the_graphs_are_kept",
    ),
    Defect(
        "a budget that is not kept is called kept",
        "conversion/budget.py",
        "kept=drop <= wanted,",
        "kept=True,",
        "test_budget.py::test_a_budget_that_cannot_be_kept_says_so_and_keeps_the_best",
    ),
    Defect(
        "--recipe ignored silently",
        "conversion/request.py",
        '_ON_IMAGES = ("plan", "recipe",',
        '_ON_IMAGES = ("plan",',
        "test_request.py::test_quantising_on_images_needs_a_precision_for_it",
    ),
    Defect(
        "stale cache: kept graphs of another precision",
        "conversion/bundle_builder.py",
        '            "precision": own.precision,\n',
        "",
        "test_vision_language_conversion.py::test_outside_its_gate_nothing_is_written_and_the_graphs_are_kept",
    ),
)

BUNDLES = (
    Defect(
        "hashes not checked when a bundle is opened",
        "runtimes/bundle/folder.py",
        "if hashes[place] != file.sha256:",
        "if not file.sha256:",
        "test_bundle.py::test_any_flipped_bit_is_noticed",
    ),
    Defect(
        "the old bundle removed before the new one is there",
        "runtimes/bundle/folder.py",
        "            self.destination.replace(replaced)\n",
        "            shutil.rmtree(self.destination)\n",
        "test_bundle.py::test_a_failing_second_rename_brings_the_old_bundle_back",
    ),
    Defect(
        "schema of a newer edgekit read as this one's",
        "runtimes/bundle/manifest_file.py",
        "if not 1 <= version <= SCHEMA:",
        "if version < 1:",
        "test_manifest.py::test_another_schema_version_is_named_before_anything_else",
    ),
)

LANGUAGE = (
    Defect(
        "INT4: the two halves of a byte swapped",
        "graph/blip2/forms.py",
        "integers[..., 0::2] | (integers[..., 1::2] << 4)",
        "integers[..., 1::2] | (integers[..., 0::2] << 4)",
        "test_graphs.py::test_blocks_are_within_half_a_step",
    ),
    Defect(
        "INT4: block size of 64 written as 32",
        "graph/blip2/forms.py",
        "block_size=self.size,",
        "block_size=32,",
        "test_graphs.py::test_engines_compute_with_the_integers_of_blocks",
    ),
    Defect(
        "position of a new token off by one",
        "runtimes/engines/onnxruntime/language.py",
        "places = decoder.cache.lengths[:, None] - 1",
        "places = decoder.cache.lengths[:, None]",
        "test_language_engines.py",
    ),
    Defect(
        "length penalty multiplies",
        "runtimes/language/beams.py",
        "scores = found.scores / np.float32(length**options.length_penalty)",
        "scores = found.scores * np.float32(length**options.length_penalty)",
        "test_language_generation.py::test_beam_search_is_that_of_transformers",
    ),
    Defect(
        "beams go on with the cache of others",
        "runtimes/language/beams.py",
        "rows = (origins + np.arange(prompts)[:, None] * beams).reshape(-1)",
        "rows = origins.reshape(-1)",
        "test_language_generation.py::test_beam_search_is_that_of_transformers",
    ),
    Defect(
        "padding of a prompt attended to",
        "runtimes/language/text.py",
        "mask[row, longest - len(one) :] = 1",
        "mask[row] = 1",
        "test_language_text.py::test_padding_is_on_the_left",
    ),
    Defect(
        "top_p ignored silently",
        "runtimes/language/options.py",
        '_OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p")',
        '_OF_SAMPLING = ("temperature", "top_k", "min_p")',
        "test_language_options.py",
    ),
)

PROCESSES = (
    Defect(
        "an error of a stage swallowed",
        "worker/call.py",
        "                raise event.error(channel.name, channel.error)\n",
        "                break\n",
        "test_worker.py::test_errors_are_raised_again_here",
    ),
    Defect(
        "the last words of a crash lost",
        "worker/process.py",
        "words = self._log.read()[-4000:]",
        "words = self._log.read()[:0]",
        "test_worker.py::test_a_crash_is_told_with_its_last_words",
    ),
    Defect(
        "a stop lets the next child begin",
        "worker/process.py",
        '            if self.pulled:\n                raise error("interrupted")\n',
        "",
        "test_worker.py::test_a_stop_ends_what_runs_and_lets_nothing_begin",
    ),
    Defect(
        "what arrives on a device is not checked",
        "profiling/devices/agent.py",
        "if _digest(partial) != digest:",
        "if not partial.is_dir():",
        "test_devices.py::test_a_file_that_changes_while_it_is_sent_is_named",
    ),
)

FIGURES = (
    Defect(
        "the mean for the median",
        "profiling/statistics.py",
        "        p50=p50,\n",
        "        p50=float(times.mean()),\n",
        "test_profile_statistics.py::test_percentiles_are_those_of_numpy",
    ),
    Defect(
        "mAP at 0.5 for that of all thresholds",
        "evaluation/coco.py",
        "evaluation.stats[:3])",
        "evaluation.stats[[1, 1, 2]])",
        "test_coco.py::TestKnownAnswers::test_a_shift_that_is_known_in_closed_form",
    ),
    Defect(
        "HOTA of the loosest threshold",
        "evaluation/tracks.py",
        'hota=float(np.mean(hota["HOTA"])),',
        'hota=float(hota["HOTA"][0]),',
        "test_evaluation_tracks.py::TestKnownAnswers::test_boxes_that_are_half_beside",
    ),
)

DEFECTS = (
    *IMAGES,
    *RESULTS,
    *SOURCES,
    *QUANTISATION,
    *TARGETS,
    *PROOF,
    *BUNDLES,
    *LANGUAGE,
    *PROCESSES,
    *FIGURES,
)


@dataclass(frozen=True)
class Outcome:
    """How a run of pytest ended: its exit code (None: it took too long), what it printed, and the seconds."""

    code: int | None
    said: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether everything ran and passed."""
        last = self.said.strip().rpartition("\n")[2]
        return self.code == 0 and " passed" in last and "skipped" not in last

    @property
    def caught_by(self) -> str:
        """The first test that failed; empty where none did, or where pytest could not even begin."""
        found = re.search(r"^(?:FAILED|ERROR) tests/(\S+::.+?)(?: - |$)", self.said, re.MULTILINE)
        return found[1] if found and self.code == 1 else ""


def main(words: Sequence[str]) -> int:
    """Seed the defects that ``words`` choose; the exit code."""
    chosen = [one for one in DEFECTS if not words or any(word in f"{one.name} {one.file}" for word in words)]
    if not chosen:
        print(f"no defect has any of these words in its name or file: {', '.join(words)}")
        return 1
    with tempfile.TemporaryDirectory(prefix="seeded-defects-") as folder:
        copy = copied(Path(folder))
        misplaced = [one for one in chosen if (copy / "edgekit" / one.file).read_text("utf-8").count(one.old) != 1]
        for one in misplaced:
            print(f"{one.name}: edgekit/{one.file} does not have exactly once: {one.old!r}")
        if misplaced:
            return 1
        sound = run(copy, sorted({one.test for one in chosen}), stop=False)
        if not sound.passed:
            print(f"without any defect:\n{sound.said}")
            return 1
        print("| Defect | Seeded in | Caught by | s |\n|---|---|---|---:|", flush=True)
        survived = [one.name for one in chosen if not caught(copy, one)]
    print(f"\n{len(chosen) - len(survived)} of {len(chosen)} caught; survived: {', '.join(survived) or 'none'}")
    return 1 if survived else 0


def copied(folder: Path) -> Path:
    """A copy of the repository in ``folder``, beside the data that the tests expect there."""
    copy = folder / "main"
    without = shutil.ignore_patterns(".*", "__pycache__", "out")
    shutil.copytree(ROOT, copy, ignore=without, symlinks=True)
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        (folder / "shared").symlink_to(shared.resolve(), target_is_directory=True)
    # By content: a changed file of the same size, within the same second, would pass for the compiled one.
    compileall.compile_dir(copy / "edgekit", quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return copy


def caught(copy: Path, defect: Defect) -> bool:
    """Seed a defect, run its test, and print a row of the table."""
    with seeded(copy / "edgekit" / defect.file, defect.old, defect.new):
        outcome = run(copy, [defect.test])
    by = f"`{outcome.caught_by}`" if outcome.caught_by else f"**survived** `{defect.test}` (exit code {outcome.code})"
    print(f"| {defect.name} | `{defect.file}` | {by} | {outcome.seconds:.0f} |", flush=True)
    return bool(outcome.caught_by)


@contextmanager
def seeded(path: Path, old: str, new: str) -> Iterator[None]:
    """A file with one text replaced by another, for a while."""
    sound = path.read_text("utf-8")
    path.write_text(sound.replace(old, new), "utf-8")
    try:
        yield
    finally:
        path.write_text(sound, "utf-8")


def run(copy: Path, tests: Sequence[str], *, stop: bool = True) -> Outcome:
    """Run tests on the copy, in this process's own environment but for the package; only those of the short suite."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not nightly", "-p", "no:cacheprovider", "--tb=short"]
    command += ["-x"] * stop + [f"tests/{test}" for test in tests]
    # The package found is this copy's, in every child too; nothing writes compiled files beside it.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("EDGEKIT_TEST_ALL", None)
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS * (1 if stop else len(tests)),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.output.decode(errors="replace") if isinstance(error.output, bytes) else ""
        return Outcome(None, said, time.perf_counter() - begun)
    return Outcome(done.returncode, done.stdout, time.perf_counter() - begun)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
