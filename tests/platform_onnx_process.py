"""ONNX Runtime in a process of its own, for platforms whose tests have no engine: tensors come in and go out by pipes.

    python platform_onnx_process.py MODEL THREADS INPUT[,INPUT...] OUTPUT...

All numbers are little-endian: for each tensor its number of dimensions, the dimensions (32-bit integers), its floats.
Inputs come in their order, as floats whatever the model takes.
"""

from __future__ import annotations

import struct
import sys
from typing import BinaryIO

import numpy as np
import onnxruntime


def read(stream: BinaryIO) -> np.ndarray | None:
    head = stream.read(4)
    if len(head) < 4:
        return None
    (count,) = struct.unpack("<i", head)
    shape = struct.unpack(f"<{count}i", stream.read(4 * count))
    return np.frombuffer(stream.read(4 * int(np.prod(shape))), "<f4").reshape(shape)


def write(stream: BinaryIO, tensor: np.ndarray) -> None:
    stream.write(struct.pack(f"<{1 + tensor.ndim}i", tensor.ndim, *tensor.shape))
    stream.write(np.ascontiguousarray(tensor, "<f4").tobytes())


TYPES = {"tensor(float)": "<f4", "tensor(int32)": "<i4", "tensor(int64)": "<i8"}


def main(model: str, threads: str, given: str, *wanted: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    sys.stdout.buffer.write(f"onnxruntime {onnxruntime.__version__}\n".encode())
    sys.stdout.buffer.flush()
    types = {one.name: TYPES[one.type] for one in session.get_inputs()}
    names = given.split(",")
    feeds: dict[str, np.ndarray] = {}
    while (tensor := read(sys.stdin.buffer)) is not None:
        name = names[len(feeds)]
        feeds[name] = tensor.astype(types[name])
        if len(feeds) < len(names):
            continue
        for output in session.run(list(wanted), feeds):
            write(sys.stdout.buffer, output)
        feeds = {}
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
