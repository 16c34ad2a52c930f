"""ncnn: Tencent's engine for phones and small boards, here through its Python module on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import EngineError
from edgekit.runtimes.bundle.manifest import Graph
from edgekit.runtimes.engines.base import Engine, Placement, SessionOptions
from edgekit.runtimes.engines.ncnn.files import Traits, files_of, traits_of
from edgekit.runtimes.engines.ncnn.session import NcnnNetwork, NcnnSession
from edgekit.runtimes.engines.ncnn.wide import widened


def _configure(opt: Any, traits: Traits, wide: bool, options: SessionOptions) -> str:
    """Set ncnn's options; returns the arithmetic they lead to."""
    import ncnn

    if options.threads:
        opt.num_threads = options.threads
    opt.use_vulkan_compute = False
    # bfloat16 has 8 bits of precision, too few for a detector's boxes, and ncnn may switch it on by itself.
    opt.use_bf16_storage = opt.use_bf16_packed = False
    # ncnn would compute in float16 wherever the CPU can, whatever the file holds: an fp32 bundle must stay float32,
    # and an INT8 bundle was proven with float32 between its convolutions.
    storage = traits.float16 and bool(ncnn.cpu_support_arm_vfpv4())
    arithmetic = traits.float16 and bool(ncnn.cpu_support_arm_asimdhp())
    opt.use_fp16_packed = opt.use_fp16_storage = storage
    opt.use_fp16_arithmetic = arithmetic
    opt.use_int8_inference = True
    if traits.bits:
        bits = " and ".join(map(str, traits.bits))
        # ncnn brings the input of a product with weights of 8 bits into blocks of 8 bits, too, anew for every row.
        inputs = "; where 8, the input too" if 8 in traits.bits else ""
        inputs = ", held in 8, the input too" if wide else inputs
        return (
            f"float32, weights of {traits.quantised} of {traits.quantisable} products in blocks of {bits} bits{inputs}"
        )
    if traits.quantised:
        return f"int8 in {traits.quantised} of {traits.quantisable} convolutions and products, float32 elsewhere"
    if arithmetic:
        return "float16"
    if traits.float16:
        return f"float32, weights {'and activations ' if storage else ''}stored as float16"
    return "float32"


def _unknown_layers(param: Path) -> str:
    """Names the layers that this ncnn does not have, for an error message."""
    import ncnn

    kinds = {line.split()[0] for line in param.read_text(encoding="utf-8").splitlines()[2:] if line.strip()}
    unknown = sorted(kind for kind in kinds if ncnn.layer_to_index(kind) < 0)
    return f" (it has no layer {', '.join(unknown)})" if unknown else ""


def _require(graph: Graph, net: Any, param: Path) -> None:
    """Refuse a file that lacks a blob the manifest names."""
    blobs = {blob.name for blob in net.blobs()}
    missing = [tensor.name for tensor in (*graph.inputs, *graph.outputs) if tensor.name not in blobs]
    if missing:
        raise EngineError(f"{param}: has no blob {', '.join(missing)}, which the manifest names; convert again")


def _opened(folder: Path, graph: Graph, options: SessionOptions) -> tuple[Any, Placement]:
    """The files of a graph opened on the CPU. Everything ncnn has runs there, so ``strict`` always holds.

    Raises:
        EngineError: the files are not what ncnn reads, or use a layer it does not have.
    """
    import ncnn

    param, weights = files_of(folder, graph)
    traits = traits_of(param, weights)
    wide = widened(param, weights) if 4 in traits.bits else None
    net = ncnn.Net()
    arithmetic = _configure(net.opt, traits, wide is not None, options)
    if net.load_param_mem(wide.param) if wide else net.load_param(str(param)):
        raise EngineError(
            f"{param}: ncnn {ncnn.__version__} cannot open this graph{_unknown_layers(param)}; convert the model "
            "again with this version of ncnn"
        )
    if net.load_model(wide.reader() if wide else str(weights)):
        raise EngineError(f"{weights}: ncnn {ncnn.__version__} cannot read the weights, truncated? convert again")
    _require(graph, net, param)
    return net, Placement("cpu", {"cpu": traits.layers}, arithmetic)


class Ncnn(Engine):
    """ncnn."""

    def open_session(self, folder: Path, graph: Graph, options: SessionOptions) -> NcnnSession:
        """Open a ``.param`` and ``.bin``.

        Raises:
            EngineError: the files are not what ncnn reads, or use a layer it does not have.
        """
        net, placement = _opened(folder, graph, options)
        return NcnnSession(net, graph, placement)

    def open_network(self, folder: Path, graph: Graph, options: SessionOptions) -> NcnnNetwork:
        """Open a ``.param`` and ``.bin`` with named inputs.

        Raises:
            EngineError: the files are not what ncnn reads, or use a layer it does not have.
        """
        net, placement = _opened(folder, graph, options)
        return NcnnNetwork(net, graph, placement)


SETTINGS = (
    "no Vulkan (use_vulkan_compute), no bfloat16 (use_bf16_storage, use_bf16_packed); use_fp16_packed, "
    "use_fp16_storage and use_fp16_arithmetic only for fp16 bundles; use_int8_inference"
)

ENGINE = Ncnn(name="ncnn", packages=("ncnn",), extra="ncnn", settings=SETTINGS)
