"""Write an ncnn graph: layers in memory, weights on disk as soon as they are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.converters.ncnn.model import NcnnLayer, NcnnModel, Weight
from edgekit.runtimes.bundle.manifest import Graph, Tensor


class NcnnWriter:
    """Writes ``NAME.param`` and ``NAME.bin`` into a folder. Used as a context; `save` ends it.

    Blobs are handed around by name. A blob may have any number of readers here; ncnn wants one, so that `save` puts a
    Split behind those with more. Sizes are ncnn's: the innermost axis first, without an axis for rows.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._param, self._bin = folder / f"{name}.param", folder / f"{name}.bin"
        self._data = self._bin.open("wb")
        self._layers: list[NcnnLayer] = []
        self._inputs: dict[str, Tensor] = {}
        self._outputs: list[Tensor] = []

    def __enter__(self) -> NcnnWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def input(self, name: str, shape: Sequence[int], dtype: str) -> str:
        """Declare an input; -1 is any size."""
        self._inputs[name] = Tensor(name=name, shape=tuple(shape), dtype=dtype)
        return self.layer("Input", [], outputs=[name])

    def retype(self, name: str, dtype: str) -> None:
        """Have an input given as another type: ncnn has no layer that makes floats of integers."""
        self._inputs[name] = Tensor(name=name, shape=self._inputs[name].shape, dtype=dtype)

    def output(self, name: str, value: str, shape: Sequence[int]) -> None:
        """Declare an output, which takes this value."""
        self._outputs.append(Tensor(name=name, shape=tuple(shape)))
        self.layer("Noop", [value], outputs=[name])

    def layer(
        self,
        kind: str,
        inputs: Sequence[str],
        params: Mapping[int, int | float | Sequence[int]] | None = None,
        weights: Iterable[Weight] = (),
        outputs: Sequence[str] = (),
    ) -> str:
        """Add a layer and return the name of its first output, which is made up where none is given."""
        name = f"{kind}_{len(self._layers)}"
        named = list(outputs) or [name]
        words = dict(_written(key, value) for key, value in (params or {}).items())
        self._layers.append(NcnnLayer(kind, name, list(inputs), named, words))
        for weight in weights:
            self._store(weight)
        return named[0]

    def _store(self, weight: Weight) -> None:
        if weight.tag is not None:
            self._data.write(weight.tag.to_bytes(4, "little"))
        data = np.ascontiguousarray(weight.data)
        self._data.write(data.data)
        self._data.write(bytes(-data.nbytes % 4))

    def save(self) -> Graph:
        """Write the graph and return its entry of the manifest."""
        self._data.close()
        layers = _one_reader_each(self._layers)
        model = NcnnModel(layers, sum(len(layer.outputs) for layer in layers))
        self._param.write_text(model.param(), encoding="utf-8", newline="\n")
        files = (self._param.name, self._bin.name)
        return Graph(name=self.name, files=files, inputs=tuple(self._inputs.values()), outputs=tuple(self._outputs))


def _written(key: int, value: int | float | Sequence[int]) -> tuple[int, str]:
    """A parameter as its file has it. A float has a point in it, or ncnn reads an integer; an array has another key."""
    if isinstance(value, int):
        return key, str(value)
    if isinstance(value, float):
        return key, f"{value:.8e}"
    return -23300 - key, ",".join(map(str, (len(value), *value)))


def _one_reader_each(layers: Sequence[NcnnLayer]) -> list[NcnnLayer]:
    """The layers with a Split behind every blob that several of them read."""
    readers = Counter(blob for layer in layers for blob in layer.inputs)
    copies: dict[str, list[str]] = {}
    done = []
    for layer in layers:
        inputs = [copies[blob].pop(0) if blob in copies else blob for blob in layer.inputs]
        done.append(NcnnLayer(layer.kind, layer.name, inputs, layer.outputs, layer.params))
        for blob in layer.outputs:
            if readers[blob] > 1:
                copies[blob] = [f"{blob}_{number}" for number in range(readers[blob])]
                done.append(NcnnLayer("Split", f"split_{blob}", [blob], list(copies[blob]), {}))
    return done
