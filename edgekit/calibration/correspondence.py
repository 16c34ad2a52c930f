"""Map the tensors of targets' programs and files to the plan's names for them.

Names hold between the ONNX form and the program, but for the input and the outputs, which have the contract's names in
ONNX. A toolchain that names tensors in its own way still computes the same values: there, tensors are recognised by
what they hold on a few images, and layers by their weights, in whatever order the axes come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from edgekit.arrays import Doubles, Floats
from edgekit.calibration.layers import activations
from edgekit.calibration.observation import watched
from edgekit.calibration.plan import PlannedGraph
from edgekit.calibration.ranges import FINITE
from edgekit.graph.exchange import INPUT

if TYPE_CHECKING:
    from torch import fx

Theirs = TypeVar("Theirs", bound=Hashable)

LIKE = 1e-3
"""Largest difference of two fingerprints of one tensor, as a share of the tensor's size: two engines add up the terms
of a convolution in different orders. Other tensors of the same shape are off by far more."""

Fingerprint = tuple[int, Doubles]
"""Number of values of a tensor, and least, largest, mean and root mean square (4,)."""


def planned_names(graph: fx.Graph, outputs: Iterable[str]) -> dict[str, str]:
    """The plan's name of every node of a program in exchange form, by the node's name.

    Args:
        graph: of the program's module, with one input.
        outputs: the contract's names of the outputs, in order.
    """
    names = {node.name: INPUT if node.op == "placeholder" else node.name for node in graph.nodes}
    (end,) = [node for node in graph.nodes if node.op == "output"]
    results: Any = end.args[0]
    return names | {node.name: name for node, name in zip(results, outputs, strict=True)}


def kept_in_float(plan: PlannedGraph, layers: Mapping[Theirs, tuple[str, str]]) -> set[Theirs]:
    """The operators with weights of a toolchain that stay in float.

    Where one operator is a layer and more, as a product with its bias, what it writes has the name of the last part: it
    is recognised by what it reads then.

    Args:
        plan: that says it.
        layers: the plan's names of what each operator writes and reads.
    """
    written = {name for name, _ in layers.values()}
    hidden: dict[str, set[str]] = {}
    for layer in plan.layers:
        if layer.name not in written:
            hidden.setdefault(layer.input, set()).add(layer.name)
    names = {layer.name for layer in plan.layers}
    floats = set(plan.float_layers)
    return {
        key
        for key, (name, source) in layers.items()
        if floats & ({name} if name in names else hidden.get(source, set()))
    }


def fingerprint(values: Floats) -> Fingerprint:
    """Statistics of a tensor that do not depend on its shape and the order of its axes."""
    flat = values.reshape(-1).astype(np.float64)
    finite = flat[np.abs(flat) < FINITE]
    if not finite.size:
        return flat.size, np.zeros(4)
    return flat.size, np.array([finite.min(), finite.max(), finite.mean(), np.sqrt(np.square(finite).mean())])


def fingerprints(path: Path, samples: Iterable[Floats], threads: int) -> dict[str, list[Fingerprint]]:
    """Fingerprints of the input and of every activation of a float ONNX file by name, one for each sample."""
    import onnx

    model = onnx.load(path)
    entry = model.graph.input[0].name
    names = activations(model)
    session = watched(model, names, threads)
    found: dict[str, list[Fingerprint]] = {name: [] for name in (entry, *names)}
    for sample in samples:
        for name, values in zip(names, session.run(names, {entry: sample}), strict=True):
            found[name].append(fingerprint(values))
        found[entry].append(fingerprint(sample))
    return found


def correspondence(
    theirs: Mapping[Theirs, list[Fingerprint]], ours: Mapping[str, list[Fingerprint]]
) -> dict[Theirs, str]:
    """The plan's names of the tensors of another file, from fingerprints on the same samples.

    Each tensor gets the name of the one that is most like it, or none. Tensors that hold the same values in another
    order, as around a transposition, may share a name.
    """
    stacked = {name: _stacked(several) for name, several in ours.items()}
    by_size: dict[tuple[int, ...], list[str]] = {}
    for name, several in ours.items():
        by_size.setdefault(_sizes(several), []).append(name)
    found = {}
    for key, several in theirs.items():
        wanted = _stacked(several)
        scale = max(float(np.abs(wanted).max(initial=0)), 1e-30)
        apart = {name: float(np.abs(stacked[name] - wanted).max()) / scale for name in by_size.get(_sizes(several), ())}
        nearest = min(apart, key=lambda name: apart[name], default=None)
        if nearest is not None and apart[nearest] < LIKE:
            found[key] = nearest
    return found


def weights_mark(weights: Floats) -> bytes:
    """The same for the weights of one layer in whatever order of axes."""
    unsigned = weights.astype(np.float32) + np.float32(0)  # -0 becomes 0: sorted, the two come in any order
    return hashlib.sha256(np.sort(unsigned, axis=None).tobytes()).digest()


def _stacked(several: list[Fingerprint]) -> Doubles:
    result: Doubles = np.stack([values for _, values in several])
    return result


def _sizes(several: list[Fingerprint]) -> tuple[int, ...]:
    return tuple(size for size, _ in several)
