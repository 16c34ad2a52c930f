"""Ranges that the toolkit is not to choose.

It chooses them by squared error, so that most of the 256 steps are where most values are, and clips the largest. Of the
upper part of an input (`two_parts`) that is wrong: its rounding costs nothing, because the lower part takes that up,
but what is clipped is lost, and that is where the objects are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.converters.imx500.two_parts import ROOM, upper_parts

if TYPE_CHECKING:
    from torch import fx


def edits(toolkit: Any, network: fx.GraphModule) -> Any:
    """The toolkit's settings by which upper parts reach `ROOM` times as far as on the calibration images."""
    core = toolkit.core
    action = core.network_editor.ChangeQuantizationParamFunction(activation_quantization_params_fn=_roomy(toolkit))
    matches = core.network_editor.NodeNameFilter
    rules = [core.network_editor.EditRule(matches(name), action) for name in upper_parts(network)]
    return core.DebugConfig(network_editor=rules)


def _roomy(toolkit: Any) -> Any:
    """The toolkit's function for ranges from the least to the largest value, with room."""
    whole = toolkit.core.common.quantization.quantization_params_generation.power_of_two_no_clipping_selection_min_max

    def chosen(*observed: Any, **options: Any) -> dict[str, Any]:
        found = whole(*observed, **options)
        return {**found, "threshold": ROOM * found["threshold"]}

    return chosen
