"""ONNX Runtime's QNN provider: sessions with every operator on the Hexagon NPU; others do not open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAME = "QNNExecutionProvider"


def session(path: Path, settings: dict[str, str], context: Path | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` on the NPU, or on its emulator on x86-64.

    Args:
        path: an ONNX file, plain, quantised with Q/DQ pairs, or holding a compiled context.
        settings: further options of the provider.
        context: where to write the compiled context.

    Raises:
        ImportError: onnxruntime or onnxruntime-qnn is not installed.
        Exception: whatever ONNX Runtime raises (`edgekit.runtimes.engines.onnxruntime.failures`).
    """
    import onnxruntime
    import onnxruntime_qnn

    if NAME not in {device.ep_name for device in onnxruntime.get_ep_devices()}:
        onnxruntime.register_execution_provider_library(NAME, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == NAME]
    # A Snapdragon lists its NPU, GPU and CPU; the emulator knows only a CPU.
    npus = [device for device in devices if device.device.type == onnxruntime.OrtHardwareDeviceType.NPU]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it cannot place it writes in lines of a hundred kilobytes
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if context is not None:
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_embed_mode", "1")
        options.add_session_config_entry("ep.context_file_path", str(context))
    given = {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        # Left to ONNX Runtime's CPU, the pairs at the inputs and outputs are operators that fall back.
        "offload_graph_io_quantization": "0",
        **settings,
    }
    options.add_provider_for_devices(npus or devices, given)
    return onnxruntime.InferenceSession(str(path), sess_options=options)


def assigned(opened: Any) -> dict[str, int]:
    """Number of operators per provider."""
    counts: dict[str, int] = {}
    for part in opened.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts
