"""Set ranges that the toolkit would choose wrongly.

The toolkit minimises the squared error: it gives most of the 256 steps to the most frequent values, and clips the
largest. That is wrong for the upper part of an input (`two_parts`). Its rounding costs nothing, because the lower part
has the remainder, but clipped values are lost, and the largest values are those of the objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.converters.imx500.two_parts import ROOM, upper_parts

if TYPE_CHECKING:
    from torch import fx


def edits(toolkit: Any, network: fx.GraphModule) -> Any:
    """The toolkit's settings that give upper parts `ROOM` times their range on the calibration images."""
    core = toolkit.core
    action = core.network_editor.ChangeQuantizationParamFunction(activation_quantization_params_fn=_roomy(toolkit))
    matches = core.network_editor.NodeNameFilter
    rules = [core.network_editor.EditRule(matches(name), action) for name in upper_parts(network)]
    return core.DebugConfig(network_editor=rules)


def _roomy(toolkit: Any) -> Any:
    """The toolkit's min-max ranges, times `ROOM`."""
    whole = toolkit.core.common.quantization.quantization_params_generation.power_of_two_no_clipping_selection_min_max

    def chosen(*observed: Any, **options: Any) -> dict[str, Any]:
        found = whole(*observed, **options)
        return {**found, "threshold": ROOM * found["threshold"]}

    return chosen
