"""What a conversion is to make: refused before anything starts, or explained."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from tiny_conversions import edgekit, write_pictures

from edgekit import converters
from edgekit.cli._options import read_options
from edgekit.conversion.selection import refuse, select
from edgekit.converters import NoTargetOptions
from edgekit.converters import read_options as typed_options
from edgekit.errors import ConversionError, UsageError
from edgekit.runtimes.bundle.manifest import Record
from edgekit.sources import SourceRequest, find

NETWORK = find(SourceRequest("tiny_models:detector"))


def chosen(
    targets: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    options: Mapping[str, Mapping[str, str]] | None = None,
    recipe: str = "auto",
) -> Any:
    return select(NETWORK, targets, precisions, options or {}, recipe)


def refused(**given: Any) -> str:
    with pytest.raises(UsageError) as error:
        chosen(**given)
    return str(error.value)


def test_wrong_wishes_are_refused_with_the_choices() -> None:
    names = ", ".join(converters.target_names())
    assert refused(targets=("onnx", "tpu")) == f"target 'tpu' is not one of: {names}"
    assert refused(precisions=("fp32", "fp8")).startswith("--precision 'fp8' is not one of: fp16, fp32, int8")
    assert refused(targets=()) == "no target is available here; see: edgekit targets"


def test_a_target_without_the_precision_is_refused_by_name() -> None:
    said = refused(targets=("ethosu",), precisions=("fp32", "fp16"))
    assert said == "target ethosu: has no fp32, fp16; it has: int8"


def test_int8_weights_with_float_arithmetic_are_of_litert_alone() -> None:
    said = refused(targets=("onnx",), precisions=("w8a32",))
    assert said == "target onnx: has no w8a32; it has: fp32, fp16, int8; targets that have it: litert"
    assert chosen(("litert",), ("w8a32",)).calibrated
    said = refused(targets=("litert",), precisions=("int8", "w8a32"), recipe="litert")
    assert said == "target litert: has no recipe litert for w8a32; it has: plan"


def test_pairs_come_in_the_order_of_targets_and_precisions() -> None:
    found = chosen(("openvino", "onnx"), ("int8", "fp32"))
    pairs = [(spec.target, spec.precision) for spec in found.bundles]
    assert pairs == [("openvino", "int8"), ("openvino", "fp32"), ("onnx", "int8"), ("onnx", "fp32")]
    assert found.targets == ("openvino", "onnx")
    assert found.calibrated
    assert not chosen(("openvino",), ("fp32", "fp16")).calibrated


def test_weight_only_int8_needs_no_images() -> None:
    assert not chosen(("coreml",), ("int8",)).calibrated
    assert chosen(("coreml",), ("w8a8",)).calibrated


def test_all_explains_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(converters.target("ncnn"), requires=("no_such_package",))
    genuine = converters.target
    monkeypatch.setattr(converters, "target", lambda name: absent if name == "ncnn" else genuine(name))
    found = chosen(("all",), ("fp32",))
    reasons = {one.target: one.reason for one in found.skipped}
    assert reasons["ncnn"] == "missing no_such_package: pip install edgekit[convert]"
    assert reasons["ethosu"] == "has no fp32; it has: int8"
    assert {spec.target for spec in found.bundles} | set(reasons) == set(converters.target_names())
    assert refused(targets=("ncnn",)) == "target ncnn: missing no_such_package: pip install edgekit[convert]"


def test_option_pairs() -> None:
    assert read_options(("rknn.platform=rk3566", "rknn.a=b=c", "onnx.x=")) == {
        "rknn": {"platform": "rk3566", "a": "b=c"},
        "onnx": {"x": ""},
    }
    for wrong in ("rknn", "rknn.platform", "platform=3", ".platform=3", "rknn.=3"):
        with pytest.raises(UsageError, match=r"write it as TARGET\.NAME=VALUE"):
            read_options((wrong,))


class Wheels(Record, frozen=True):
    """Options of a target that exists in this test alone."""

    kind: Literal["steel", "wood"] = "steel"
    count: int = 4


def test_options_are_typed() -> None:
    spec = replace(converters.target("onnx"), options=Wheels)
    assert typed_options(spec, {}) == Wheels()
    assert typed_options(spec, {"kind": "wood", "count": "3"}) == Wheels("wood", 3)
    with pytest.raises(UsageError, match="option of target onnx 'size' is not one of: kind, count"):
        typed_options(spec, {"size": "3"})
    with pytest.raises(UsageError, match=r"option of target onnx: .*\$\.kind"):
        typed_options(spec, {"kind": "glass"})
    with pytest.raises(UsageError, match=r"option of target onnx: .*\$\.count"):
        typed_options(spec, {"count": "many"})
    assert typed_options(converters.target("web"), {}) == NoTargetOptions()


def test_options_of_a_target_that_is_not_made_are_refused() -> None:
    assert refused(options={"ncnn": {}}) == ("--option ncnn....: target ncnn is not converted to; name it in --target")
    assert refused(options={"tpu": {}}).startswith("target 'tpu' is not one of")


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_cache_in_int8_is_for_language_models(target: str) -> None:
    said = refused(targets=(target,), options={target: {"kv_cache": "int8"}})
    assert said.startswith(f"--option {target}.kv_cache=int8 is for the language part of a vision-language model, and ")
    assert said.endswith(f"{target} gets none; leave it out")
    assert chosen((target,), options={target: {"kv_cache": "fp32"}}).options[target].kv_cache == "fp32"
    assert refused(targets=(target,), options={target: {"kv_cache": "int4"}}) == (
        f"option of target {target}: Invalid enum value 'int4' - at `$.kv_cache`"
    )


def test_an_operator_is_refused_by_name_with_the_targets_that_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(converters.target("ncnn"), refuses={"TopK": "ncnn has no such layer"})
    genuine = converters.target
    monkeypatch.setattr(converters, "target", lambda name: spec if name == "ncnn" else genuine(name))
    refuse(spec, {"Conv": "conv_1"})
    with pytest.raises(ConversionError) as error:
        refuse(spec, {"Conv": "conv_1", "TopK": "topk_7"})
    said = str(error.value)
    assert said.startswith("ncnn cannot take TopK (node 'topk_7'): ncnn has no such layer. Targets that take it: ")
    takers = said.rpartition(": ")[2].split(", ")
    assert "onnx" in takers
    assert "ncnn" not in takers


def test_fourier_transforms_are_refused_where_there_are_none(tmp_path: Path) -> None:
    """Both of them before anything is built, and no target is named that cannot take them either."""
    import torch
    from jobs import make_job
    from torch import nn

    from edgekit.graph.exchange import operators

    class Real(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfft(torch.fft.rfft(images))

    class Complex(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft2(images).real

    tested = {
        "executorch",
        "litert",
        "mnn",
        "ncnn",
        "onnx",
        "openvino",
        "coreai",
        "coreml",
        "tensorrt",
        "ethosu",
        "imx500",
        "rknn",
    }
    for module, taken in ((Real(), {"executorch", "onnx", "openvino"}), (Complex(), {"onnx", "openvino"})):
        job = make_job(module, torch.zeros(1, 3, 16, 16), ("out",), tmp_path / type(module).__name__, "fp32")
        found = operators(job.onnx)
        for name in sorted(tested - taken):
            with pytest.raises(ConversionError, match=rf"^{name} cannot take DFT") as error:
                refuse(converters.target(name), found)
            takers = str(error.value).rpartition("Targets that take it: ")[2].split(", ")
            assert taken <= set(takers)
            assert not set(takers) & (tested - taken)
        for name in taken:
            refuse(converters.target(name), found)


@pytest.mark.convert
def test_a_network_that_a_target_cannot_take_is_refused_before_its_toolchain_starts(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 12)
    given = ("--target", "ncnn,onnx", "--data", photos, "-o", tmp_path / "out", "--json")
    done = edgekit("convert", "tiny_models:sorting", *given)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert [bundle["target"] for bundle in report["bundles"]] == ["onnx"]
    (failed,) = report["failed"]
    assert re.fullmatch(
        r"ncnn cannot take TopK \(node '.+'\): ncnn has no layer for it\. Targets that take it: .*onnx.*",
        failed["error"],
    )


@pytest.mark.convert
@pytest.mark.parametrize("operator", ["sort", "where", "gather"])
def test_what_ncnn_refuses_it_cannot_do(operator: str, tmp_path: Path) -> None:
    """Without the list the answer would be the engine's own, after all of the work."""
    import torch
    from jobs import make_job
    from torch import nn

    from edgekit.converters import ncnn
    from edgekit.graph.exchange import operators

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = self.stem(images)
            if operator == "sort":
                return x.sort(3).values
            return torch.where(x > 0, x, 2 * x) if operator == "where" else torch.gather(x, 3, (x > 0).long())

    job = make_job(Module(), torch.zeros(1, 3, 16, 16), ("out",), tmp_path, "fp32")
    assert set(operators(job.onnx)) & set(ncnn.TARGET.refuses)
    with pytest.raises(
        ConversionError,
        match=r"what pnnx wrote does not run in ncnn: .*; not every target takes ",
    ):
        ncnn.convert(job, lambda text, share: None)
