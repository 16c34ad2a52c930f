"""Times of operators by the profilers of the real engines, on networks whose operators are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from jobs import make_job
from sample_bundles import sample_manifest, write_bundle

from edgekit import converters, registry
from edgekit.errors import EngineError, UsageError
from edgekit.profiling.operators import operators, pieces
from edgekit.profiling.record import Operators, OperatorTime
from edgekit.runtimes import engines as runtimes
from edgekit.runtimes.bundle.folder import Bundle, open_bundle, stage
from edgekit.runtimes.engines import SessionOptions

torch = pytest.importorskip("torch", reason="needs torch, which only the convert extra brings")
pytest.importorskip("onnx", reason="needs onnx, which only the convert extra brings")

SIZE, HEAVY_KERNEL = 64, 5
TIMED = ("onnx", "openvino", "ncnn", "mnn", "executorch")
"""Targets whose engines have a profiler that Python can use."""

ONE_THREAD = SessionOptions(threads=1)


class Lopsided(torch.nn.Module):  # type: ignore[misc]
    """Six convolutions, one of them depthwise; the one at ``heavy`` computes 50 times more than any other.

    ``stretched`` has a nearest-neighbour upsampling before the last, which XNNPACK does not have.
    """

    def __init__(self, heavy: int = 3, stretched: bool = False) -> None:
        super().__init__()
        torch.manual_seed(heavy)
        self.first = torch.nn.Conv2d(3, 16, 3, 2, 1)
        kernels = [1, 1, 1, 1]
        widths = [16, 16, 16, 16, 16]
        if heavy:
            kernels[heavy - 1], widths[heavy] = HEAVY_KERNEL, 128
        self.middle = torch.nn.ModuleList(
            torch.nn.Conv2d(widths[i], widths[i + 1], kernels[i], padding=kernels[i] // 2) for i in range(4)
        )
        if heavy not in (1, 2):  # the second convolution of all
            self.middle[0] = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = torch.nn.Conv2d(widths[4], 4, 1)
        self.stretched = stretched

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.first(x))
        for layer in self.middle:
            x = torch.relu(layer(x))
        if self.stretched:
            x = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.last(x)


def convert(target: str, module: Any, folder: Path, precision: str = "fp32", images: Any = None) -> Bundle:
    """A bundle of a module, by the real converter, without calibration's proof."""
    spec = converters.target(target)
    if spec.missing:
        pytest.skip(f"{target}: {spec.missing}")
    job = make_job(module, torch.rand(1, 3, SIZE, SIZE), ("out",), folder, precision, images)
    job = dataclasses.replace(job, options=spec.options())
    graph = registry.module(converters.__name__, target).convert(job, lambda text, share: None)
    with stage(folder / f"bundle-{precision}") as staging:
        for name in graph.files:
            (staging.folder / name).write_bytes((job.out / name).read_bytes())
        staging.seal(
            sample_manifest(
                target=target, precision=precision, engine=spec.engine, graphs=(graph,), contract=job.contract
            )
        )
        staging.commit()
    return open_bundle(folder / f"bundle-{precision}")


def feeds(bundle: Bundle) -> list[Any]:
    return [np.random.default_rng(1).random((1, 3, SIZE, SIZE), np.float32) for _ in bundle.manifest.graphs[0].inputs]


def profiled(bundle: Bundle, runs: int = 10) -> Operators:
    return operators(bundle, ONE_THREAD, feeds(bundle), runs)


def convolutions(found: Operators) -> list[OperatorTime]:
    """XNNPACK computes 1x1 convolutions as products of matrices."""
    kinds = ("conv", "fusedconv", "convolution", "convolutiondepthwise", "groupconvolution", "fully connected")
    return [one for one in found.times if one.kind.lower().partition(" brg")[0].partition(" jit")[0] in kinds]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bundles of the stretched network by target, each converted once."""
    done: dict[str, Bundle] = {}

    def bundle(target: str) -> Bundle:
        if target not in done:
            done[target] = convert(target, Lopsided(stretched=True), tmp_path_factory.mktemp(target))
        return done[target]

    return bundle


@pytest.mark.convert
@pytest.mark.parametrize("target", TIMED)
def test_every_convolution_has_a_time_and_the_heavy_one_the_most(made: Any, target: str) -> None:
    found = profiled(made(target))
    assert found.by
    assert not found.unavailable
    seen = convolutions(found)
    assert len(seen) == 6, [one.kind for one in found.times]
    assert all(one.milliseconds >= 0 and one.name for one in found.times)
    assert max(found.times, key=lambda one: one.milliseconds) is seen[3]
    assert {one.arithmetic for one in seen} == {"float32"}


@pytest.mark.convert
@pytest.mark.parametrize("target", TIMED)
def test_the_operators_make_up_the_inference(made: Any, target: str) -> None:
    found = profiled(made(target))
    total = sum(one.milliseconds for one in found.times)
    print(f"{target}: {total:.3f} of {found.measured:.3f} ms, {total / found.measured:.0%}")
    # Wide, since a busy machine interrupts whole inferences and hardly any single operator.
    assert 0.05 < total / found.measured < 3


@pytest.mark.convert
@pytest.mark.parametrize("target", TIMED)
def test_units_and_partitions_are_of_the_times(made: Any, target: str) -> None:
    bundle = made(target)
    found = profiled(bundle, runs=1)
    assert sum(found.units.values()) == len(found.times)
    if target == "executorch":  # XNNPACK, the upsampling of the portable kernels, XNNPACK
        assert found.units["portable"] == bundle.manifest.graphs[0].report["portable_operators"] == 1
        assert (found.partitions, len(found.fallbacks)) == (3, 1)
        assert found.fallbacks[0].startswith("upsample_nearest2d")
        assert [one.name for one in found.times if one.unit == "portable"] == list(found.fallbacks)
    else:
        assert (len(found.units), found.partitions, found.fallbacks) == (1, 1, ())


# Negative control: what is slow is not slow by its place or its name.
@pytest.mark.convert
@pytest.mark.parametrize("target", ["onnx", "openvino", "ncnn"])
@pytest.mark.parametrize("heavy", [1, 4])
def test_the_most_expensive_operator_is_where_the_arithmetic_is(tmp_path: Path, target: str, heavy: int) -> None:
    found = profiled(convert(target, Lopsided(heavy), tmp_path))
    seen = convolutions(found)
    assert len(seen) == 6
    assert max(found.times, key=lambda one: one.milliseconds) is seen[heavy]


@pytest.mark.convert
@pytest.mark.parametrize("target", ["openvino", "ncnn", "mnn"])
def test_integer_operators_say_so(tmp_path: Path, target: str) -> None:
    images = np.random.default_rng(2).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    bundle = convert(target, Lopsided(), tmp_path, "int8", images)
    found = profiled(bundle)
    seen = convolutions(found)
    assert len(seen) == 6
    # The plan leaves some layers in float; none of them is the heavy one.
    assert seen[3].arithmetic == "int8", [one.arithmetic for one in seen]
    if target == "ncnn":  # which says how many there are in the words of its placement
        session = runtimes.open_session("ncnn", bundle.path, bundle.manifest.graphs[0], ONE_THREAD)
        count = [one.arithmetic for one in seen].count("int8")
        assert session.placement.arithmetic.startswith(f"int8 in {count} of 6")


@pytest.mark.nightly
@pytest.mark.convert
def test_litert_tells_where_operators_run_and_that_it_has_no_times(made: Any, tmp_path: Path) -> None:
    bundle = made("litert")
    found = profiled(bundle)
    assert found.times == ()
    assert "no profiler; its benchmark_model tool" in found.unavailable
    session: Any = runtimes.open_session("litert", bundle.path, bundle.manifest.graphs[0], ONE_THREAD)
    listed = [one["op_name"] for one in session.interpreter._get_ops_details()]
    assert sum(found.units.values()) == len([name for name in listed if name != "DELEGATE"])
    assert found.fallbacks == ("RESIZE_NEAREST_NEIGHBOR",)
    assert listed.count("DELEGATE") == 2
    assert found.partitions == 3
    whole = profiled(convert("litert", Lopsided(), tmp_path))
    assert (whole.partitions, whole.fallbacks) == (1, ())


@pytest.mark.convert
def test_openvino_names_the_layers_that_it_fused(made: Any) -> None:
    seen = convolutions(profiled(made("openvino"), runs=2))
    assert all(len(one.source.split(",")) > 1 for one in seen)


@pytest.mark.convert
def test_events_of_executorch_are_those_that_its_own_inspector_reads(made: Any, tmp_path: Path) -> None:
    pytest.importorskip("executorch.devtools", reason="needs executorch's developer tools")
    from executorch.devtools import Inspector

    from edgekit.profiling.engines._etdump import read_blocks
    from edgekit.profiling.engines.executorch import _dump

    bundle = made("executorch")
    data = _dump(bundle.path / bundle.manifest.graphs[0].files[0], feeds(bundle), 2)
    (tmp_path / "trace.etdump").write_bytes(data)
    (block,) = [one for one in Inspector(etdump_path=str(tmp_path / "trace.etdump")).event_blocks if one.events[2:]]
    runs = [events for name, events in read_blocks(data) if name == "Execute"]
    assert len(runs) == 2
    assert [one.name for one in runs[0]] == [one.name for one in block.events]
    for run, events in enumerate(runs):
        wanted = [one.perf_data.raw[run] for one in block.events]
        assert [one.milliseconds for one in events] == pytest.approx(wanted, abs=1e-6)
    for cut in (9, len(data) // 2):
        with pytest.raises(ValueError, match="ETDump"):
            read_blocks(data[:cut])


def test_what_is_no_dump_is_refused() -> None:
    from edgekit.profiling.engines._etdump import read_blocks

    with pytest.raises(ValueError, match="not an ETDump"):
        read_blocks(b"no dump at all, but long enough")


@pytest.mark.convert
def test_ncnn_names_the_blob_that_it_cannot_compute(made: Any) -> None:
    from edgekit.profiling.engines.ncnn import _extracted

    bundle = made("ncnn")
    session: Any = runtimes.open_session("ncnn", bundle.path, bundle.manifest.graphs[0], ONE_THREAD)
    with pytest.raises(EngineError, match=r"ncnn failed to compute 'nothing' \(code -\d+\) while it was profiled"):
        _extracted(session.net.create_extractor(), "nothing")


def test_an_engine_without_a_profiler_still_tells_the_placement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = convert("onnx", Lopsided(), tmp_path)
    monkeypatch.delattr("edgekit.profiling.engines.onnxruntime.measure")
    found = profiled(bundle)
    assert found.times == ()
    assert found.unavailable == "edgekit reads no times of operators from engine onnxruntime"
    assert found.units["CPUExecutionProvider"] >= 6
    assert found.partitions == 1


def test_times_of_launching_kernels_are_not_times_of_operators() -> None:
    from edgekit.profiling.engines.onnxruntime import summed_up

    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    times = tuple(
        OperatorTime(name=name, kind="Conv", milliseconds=1.0, unit=unit)
        for name, unit in (("a", cuda), ("b", cpu), ("c", cuda), ("d", cuda))
    )
    found = summed_up(times, 9.0, cuda)
    assert found.times == ()
    assert "how long kernels took to launch" in found.unavailable
    assert (found.units, found.partitions, found.fallbacks) == ({cuda: 3, cpu: 1}, 3, ("b",))
    assert summed_up(times, 9.0, cpu).times == times


def test_what_cannot_be_profiled_is_refused(tmp_path: Path) -> None:
    bundle = convert("onnx", Lopsided(), tmp_path)
    with pytest.raises(UsageError, match="runs must be 1 or more, not 0"):
        profiled(bundle, runs=0)
    with pytest.raises(EngineError, match="takes 1 input"):
        operators(bundle, ONE_THREAD, [])
    with pytest.raises(UsageError, match="unit 'toaster' is not one of"):
        operators(bundle, SessionOptions(device="toaster"), feeds(bundle))


def test_a_bundle_of_several_graphs_is_told_to_have_no_times(tmp_path: Path) -> None:
    graph = sample_manifest().graphs[0]
    parts = tuple(msgspec.structs.replace(graph, name=name) for name in ("vision", "language"))
    found = operators(write_bundle(tmp_path / "parts", graphs=parts), ONE_THREAD, [])
    assert found.times == ()
    assert found.unavailable.startswith("2 graphs that call each other")


def test_pieces_are_counted_where_the_unit_changes() -> None:
    def times(*units: str) -> list[OperatorTime]:
        return [OperatorTime(name="a", kind="b", milliseconds=1.0, unit=unit) for unit in units]

    assert pieces([]) == 0
    assert pieces(times("npu", "npu")) == 1
    assert pieces(times("npu", "cpu", "cpu", "npu", "npu")) == 3
