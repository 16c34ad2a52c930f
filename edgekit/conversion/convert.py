"""Converting: one source to many proven bundles, targets side by side, each step in a child process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from edgekit import converters
from edgekit.calibration.plan import FILE, Methods, Plan, check_place
from edgekit.conversion import jobs, vision_language, workspace
from edgekit.conversion.build import PLAN, PREPARED
from edgekit.conversion.making import AUTO, Maker, Outcome, Wanted
from edgekit.conversion.runner import Stop, run
from edgekit.conversion.selection import Selection, Skipped, select
from edgekit.errors import UsageError
from edgekit.runtimes.bundle.folder import writing
from edgekit.runtimes.bundle.manifest import Gate


@dataclass(frozen=True)
class Conversion:
    """What to convert, to what, judged on what.

    ``source`` and ``weights``, ``contract``, ``data`` are as on the command line. ``gates`` overrides the bounds of a
    precision, ``bounds`` single ones of all; without ``gated`` a bundle outside its gate is written all the same and
    marked unproven. ``options`` are options of the targets' own by target, as text. ``prompts`` is a file of prompts
    for vision-language models. ``size`` is (height, width) of the input, the source's own when left out.
    """

    source: str
    targets: tuple[str, ...]
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


Watch = Callable[[str, str, float], None]
"""Told of progress: what (``prepare`` or ``target precision``), what it is doing, share done (0..1)."""


@dataclass(frozen=True)
class Conversions:
    """Everything that one call of `convert` gave: a sequence of outcomes, in the order of targets and precisions.

    Attributes:
        prepared: what was read of the source.
        outcomes: one for each bundle that was asked for.
        skipped: targets that ``all`` cannot have here, and why.
        plan: how the model became INT8, where it did.
    """

    prepared: jobs.Prepared
    outcomes: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...] = ()
    plan: Plan | None = None

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def __len__(self) -> int:
        return len(self.outcomes)

    def __getitem__(self, place: int) -> Outcome:
        return self.outcomes[place]

    @property
    def ok(self) -> bool:
        """Whether every bundle that was asked for is there and proven."""
        return all(outcome.ok for outcome in self.outcomes)


def convert(
    conversion: Conversion, watch: Watch = lambda what, text, share: None, stop: Stop | None = None
) -> Conversions:
    """Convert a trained model; one failing target does not stop the others.

    Args:
        conversion: what to do.
        watch: told of progress, from several threads.
        stop: ends what runs, and lets nothing else begin, when it is pulled.

    Returns:
        The bundles and the failures, in the order of targets and precisions.

    Raises:
        UsageError, SourceError, ContractError, InputError: nothing can be begun with what was given.
    """
    stop = stop or Stop()
    if vision_language.is_vision_language(conversion.source):
        if conversion.size is not None:
            raise UsageError(f"--size: the positions of {conversion.source} are learnt for one size; leave it out")
        return Conversions(*vision_language.convert(conversion, watch, stop))
    if conversion.prompts:
        raise UsageError(f"--prompts goes with vision-language models; {conversion.source} is none")
    selection = select(conversion.targets, conversion.precisions, conversion.options, conversion.data)
    if conversion.plan and selection.calibrated:
        check_place(Path(conversion.plan))
    with workspace.open_workspace(conversion.out) as folder:
        prepared = run(prepare_job(conversion, selection, folder), jobs.Prepared, partial(watch, "prepare"), stop=stop)
        (folder / PREPARED).write_bytes(msgspec.json.encode(prepared))
        if conversion.max_drop is not None and not conversion.labels and not prepared.held_views:
            raise UsageError(
                "--max-drop needs labelled images (--labels) or more images in --data: from ten calibration images on "
                "some are held back, on which the results are compared with the source's"
            )
        plan = _calibrate(conversion, selection, folder, watch, stop) if selection.calibrated else None
        lanes: dict[str, list[str]] = {}
        for target, precision in selection.pairs:
            lanes.setdefault(target, []).append(precision)

        def lane(target: str) -> list[Outcome]:
            # Precisions of one target go one after another: they share its float file.
            options, maker = selection.options[target], Maker(prepared, folder, conversion, stop)
            return [
                maker.make(Wanted(target, precision, options), partial(watch, f"{target} {precision}"))
                for precision in lanes[target]
                if not stop.pulled
            ]

        with ThreadPoolExecutor(max_workers=max(1, conversion.jobs)) as pool:
            try:
                done = [outcome for outcomes in pool.map(lane, lanes) for outcome in outcomes]
            except BaseException:
                stop.pull()
                raise
    return Conversions(prepared, tuple(done), selection.skipped, plan)


def prepare_job(conversion: Conversion, selection: Selection, folder: Path) -> jobs.PrepareJob:
    """The first stage of a conversion."""
    return jobs.PrepareJob(
        folder=str(folder),
        source=conversion.source,
        weights=conversion.weights,
        contract=conversion.contract,
        size=conversion.size,
        name=conversion.name,
        data=conversion.data,
        proof_data=conversion.proof_data,
        calibrate=selection.calibrated,
        choose=conversion.choose,
        half=any(precision == "fp16" for _, precision in selection.pairs),
        seed=conversion.seed,
        trust=conversion.trust,
        imports=conversion.imports,
    )


def _calibrate(conversion: Conversion, selection: Selection, folder: Path, watch: Watch, stop: Stop) -> Plan:
    """The quantisation plan, once for all targets; left in the folder ``plan`` where there was none yet.

    Raises:
        UsageError: a plan that is there already cannot be made in another way.
    """
    specs = [converters.target(name) for name, _ in selection.pairs]
    given = Path(conversion.plan) if conversion.plan else None
    known = given is not None and (given / FILE).is_file()
    if known and (conversion.finetune or conversion.methods != Methods()):
        raise UsageError(
            f"--plan {conversion.plan}: that plan is taken as it is; leave out --finetune and the options of methods, "
            "or make a new plan with edgekit calibrate"
        )
    job = jobs.CalibrateJob(
        folder=str(folder),
        plan=conversion.plan if known else "",
        methods=conversion.methods,
        integer=given is not None or any(spec.integer_only for spec in specs),
        sensitivity=conversion.max_drop is not None,
        finetune=conversion.finetune,
        threads=conversion.threads,
        imports=conversion.imports,
    )
    plan = run(job, Plan, partial(watch, "calibrate"), stop=stop)
    if given is not None and not known:
        with writing(given):
            shutil.copytree(folder / PLAN, given, dirs_exist_ok=True)
    return plan
