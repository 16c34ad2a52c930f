"""What a user asks a conversion for: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.calibration.plan import Methods
from edgekit.runtimes.bundle.manifest import Gate

if TYPE_CHECKING:
    from torch import nn

AUTO = "auto"
"""Every recipe of the target is tried, the best is kept."""


@dataclass(frozen=True)
class Request:
    """What to convert, to what, judged on what.

    Attributes:
        source: what to convert, as on the command line; empty where there is a ``model``.
        targets: names, ``("all",)``, or one for each part of a model: ``("vision=openvino", "language=onnx")``.
        precisions: each target makes those of them that it has; or one for each part, as the targets.
        out: folder of the bundles.
        data: images to calibrate on and to compare on.
        proof_data: other images to compare on.
        contract: a contract file, for sources that cannot say everything themselves.
        weights: of a source that is code.
        name: of the bundles, the source's own when left out.
        seed: of the choice of images.
        trust: allow unpickling the source.
        gated: without it a bundle outside its gate is written all the same and marked unproven.
        gates: bounds in place of those of a precision, by precision.
        bounds: single bounds, of every precision.
        jobs: targets built at once.
        threads: CPU threads of each.
        imports: modules that register decoders.
        options: options of the targets' own by target, as text.
        methods: what the quantisation plan does.
        plan: folder of a quantisation plan, to take over or to leave one in.
        recipe: way of quantising, `AUTO` for the best of the target's.
        max_drop: what INT8 may lose (0..1).
        labels: labelled images to measure that loss on.
        finetune: minutes of fine-tuning.
        choose: calibrate on so many images, the most informative ones.
        prompts: file of prompts, for models that write.
        size: (height, width) of the input, the source's own when left out.
        model: a live network in place of ``source``.
    """

    source: str = ""
    targets: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    out: Path = Path("out")
    data: str = ""
    proof_data: str = ""
    contract: str = ""
    weights: str = ""
    name: str = ""
    seed: int = 0
    trust: bool = False
    gated: bool = True
    gates: dict[str, Gate] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    jobs: int = 1
    threads: int = 2
    imports: tuple[str, ...] = ()
    options: dict[str, dict[str, str]] = field(default_factory=dict)
    methods: Methods = field(default_factory=Methods)
    plan: str = ""
    recipe: str = AUTO
    max_drop: float | None = None
    labels: str = ""
    finetune: float = 0.0
    choose: int = 0
    prompts: str = ""
    size: tuple[int, int] | None = None
    model: nn.Module | None = None
