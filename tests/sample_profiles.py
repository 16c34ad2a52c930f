"""Plausible profiles from a seed: no engine, no waiting, and names that try to break out of a page."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.profiling.record import (
    Accuracy,
    Conditions,
    Distribution,
    Load,
    Machine,
    MachineState,
    Memory,
    Operators,
    OperatorTime,
    Processor,
    Profile,
    Roofline,
    Round,
    Second,
    Settings,
    StageName,
    Subject,
    Sustained,
    Throughput,
)

SPEED = {
    "ncnn": 7.4, "litert": 8.1, "openvino": 8.9, "onnx": 9.6, "mnn": 10.4, "executorch": 13.8, "coreml": 41.0,
    "coreai": 44.0, "web": 24.0, "tensorrt": 190.0, "qnn": 11.6, "rknn": 33.0, "imx500": 72.0, "ethosu": 260.0,
}  # fmt: skip
"""Milliseconds of an inference in fp32, by target."""

GAIN = {"fp32": (1.0, 1.0, 1.0), "fp16": (0.93, 0.5, 0.9991), "int8": (0.52, 0.26, 0.987)}
"""Time, size and agreement of a precision against fp32."""

NASTY = '<script>alert("&")</script>'
LONG = "a-very-long-name-of-a-bundle-" * 9

KINDS = ("Conv", "ConvDepthwise", "Silu", "Concat", "Resize", "Add")


def distribution(values: Sequence[float] | NDArray[np.float64]) -> Distribution:
    """What a record says of these times."""
    given = np.asarray(values, np.float64)
    low, high = np.percentile(given, (25, 75))
    p50, p90, p95, p99 = (float(np.percentile(given, share)) for share in (50, 90, 95, 99))
    return Distribution(
        count=given.size,
        mean=float(given.mean()),
        std=float(given.std()),
        min=float(given.min()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(given.max()),
        outliers=int((given > high + 3 * (high - low)).sum()),
    )


def machine(key: str = "pi5") -> Machine:
    """A board, or (``desk``) a virtual computer."""
    if key == "pi5":
        return Machine(
            key="pi5",
            model="Raspberry Pi 5 Model B Rev 1.0",
            soc="BCM2712",
            system="Debian GNU/Linux 12 (bookworm), Linux 6.6.51",
            python="3.11.2",
            cores=4,
            memory=8_442_000_000,
        )
    return Machine(
        key=key,
        model="QEMU Standard PC",
        soc="Intel Xeon Platinum 8481C",
        system="Debian GNU/Linux 12 (bookworm), Linux 6.1",
        python="3.11.7",
        cores=2,
        memory=16_000_000_000,
        virtual=True,
    )


def _rounds(draw: np.random.Generator, medians: dict[StageName, float], rounds: int, noise: float) -> tuple[Round, ...]:
    made = []
    for _ in range(rounds):
        level = 1 + draw.normal(0, noise)
        calls = int(min(max(400 / sum(medians.values()), 12), 120)) + 6
        stages: dict[StageName, NDArray[np.float64]] = {}
        for stage, median in medians.items():
            times = median * level * (1 + draw.gamma(2.0, 0.012, calls))
            times[:4] *= np.array([2.6, 1.5, 1.2, 1.1])
            times[draw.random(calls) < 0.015] *= draw.uniform(1.3, 2.4)
            stages[stage] = times
        total = np.sum(list(stages.values()), axis=0) * 1.006
        made.append(
            Round(
                total=tuple(total.tolist()),
                stages={stage: tuple(times.tolist()) for stage, times in stages.items()},
                warm_up=4,
                settled=bool(draw.random() > 0.04),
            )
        )
    return tuple(made)


def _operators(draw: np.random.Generator, inference: float, *, fallback: bool) -> Operators:
    shares = draw.dirichlet(np.full(62, 0.5))
    times = tuple(
        OperatorTime(
            name=f"/backbone/stage{place // 9}/block{place % 9}/{kind.lower()}",
            kind=kind,
            milliseconds=float(inference * share),
            unit="cpu" if fallback and kind == "Resize" else "XNNPACK",
            arithmetic="int8" if place % 4 else "fp32",
            source=f"conv_{place}+silu_{place}" if kind == "Conv" else "",
        )
        for place, share in enumerate(shares)
        for kind in [KINDS[place % len(KINDS)]]
    )
    lost = tuple(one.name for one in times if one.unit == "cpu")
    return Operators(
        by="the engine's own profiler",
        times=times,
        measured=inference * 1.04,
        units={"XNNPACK": len(times) - len(lost), **({"cpu": len(lost)} if lost else {})},
        partitions=1 + 2 * len(lost) if lost else 1,
        fallbacks=lost,
    )


def _sustained(draw: np.random.Generator, median: float) -> Sustained:
    celsius = 52 + 30 * (1 - np.exp(-np.arange(60) / 14))
    slow = 1 + np.clip(celsius - 78, 0, None) * 0.05
    seconds = tuple(
        Second(
            at=float(at),
            calls=int(1000 / median),
            p50=float(median * slow[at] * (1 + draw.normal(0, 0.006))),
            megahertz=float(2400 - 900 * (slow[at] > 1.02)),
            celsius=float(celsius[at]),
        )
        for at in range(60)
    )
    burst, steady = (float(np.median([one.p50 for one in part])) for part in (seconds[:5], seconds[45:]))
    drift = steady / burst - 1
    return Sustained(
        seconds=seconds,
        burst=burst,
        steady=steady,
        drift=drift,
        low=drift - 0.012,
        high=drift + 0.012,
        throttled="soft temperature limit reached",
    )


def profile(
    seed: int,
    target: str,
    precision: str,
    *,
    name: str = "",
    device: str = "pi5",
    agreement: float | None = 0.99,
    more: bool = False,
    noise: float = 0.012,
) -> Profile:
    """A detector on one target; ``more`` adds what is only measured when it is asked for."""
    draw = np.random.default_rng(seed)
    time, size, alike = GAIN[precision]
    inference = SPEED[target] * time * (0.6 if device != "pi5" else 1.0)
    medians: dict[StageName, float] = {"pre": 1.1, "inference": inference, "post": 0.55}
    if more:
        medians["track"] = 0.32
    rounds = _rounds(draw, medians, 5, noise)
    settled = [value for one in rounds for value in one.total[one.warm_up :]]
    levels = [float(np.median(one.total[one.warm_up :])) for one in rounds]
    total = distribution(settled)
    cold, warm = draw.uniform(300, 900), draw.uniform(60, 200)
    bytes_ = int(4_300_000 * size)
    first = 2.4 * inference
    return Profile(
        id=hashlib.sha256(f"{seed} {target} {precision} {device}".encode()).hexdigest()[:16],
        session="s1",
        time="2026-11-22T21:40:00+00:00",
        edgekit="0.1.0",
        subject=Subject(
            name=name or f"shapes-{target}-{precision}",
            path=f"out/shapes-{target}-{precision}",
            sha256=hashlib.sha256(target.encode()).hexdigest(),
            source="shapes detector",
            target=target,
            precision=precision,
            engine=target,
            task="detect",
            size=(192, 256),
            bytes=bytes_,
            proof="executed",
            agreement=None if agreement is None else min(1.0, agreement / 0.99 * alike - draw.uniform(0, 0.006)),
        ),
        settings=Settings(threads=2),
        conditions=_conditions(device, target),
        loads=(
            Load(cold=True, imports=cold, open=cold / 3, first=first),
            Load(cold=False, imports=warm, open=warm / 3, first=first),
            Load(cold=False, imports=warm * 1.1, open=warm / 3, first=first * 0.9),
        ),
        rounds=rounds,
        total=total,
        stages={
            stage: distribution([value for one in rounds for value in one.stages[stage][one.warm_up :]])
            for stage in medians
        },
        spread=float(np.std(levels) / np.mean(levels)),
        frames_per_second=1000 / total.mean,
        memory=Memory(before=40_000_000, peak=int(draw.uniform(9e7, 2.4e8)), steady=85_000_000),
        processor=Processor(milliseconds=total.p50 * 1.8, cores=1.8, threads=5),
        throughput=_throughput(total.p50) if more else (),
        sustained=_sustained(draw, total.p50) if more else None,
        operators=_operators(draw, inference, fallback=precision == "int8") if seed % 4 else _no_operators(target),
        roofline=_roofline(inference) if seed % 3 else None,
        notes=("Virtual machine: its neighbours are part of the times.",) if device != "pi5" else (),
    )


def _conditions(device: str, target: str) -> Conditions:
    state = MachineState(
        governor="ondemand" if device == "pi5" else None,
        megahertz=2400.0,
        celsius=51.4 if device == "pi5" else None,
        load=0.2,
    )
    after = MachineState(governor=state.governor, megahertz=1500.0, celsius=63.2 if device == "pi5" else None, load=1.9)
    return Conditions(machine=machine(device), packages={target: "1.2.3", "numpy": "2.2.6"}, before=state, after=after)


def _throughput(median: float) -> tuple[Throughput, ...]:
    return (
        Throughput(kind="batch", count=4, latency=median * 3.4, frames_per_second=4000 / (median * 3.4)),
        Throughput(kind="streams", count=2, latency=median * 1.5, frames_per_second=2000 / (median * 1.5)),
        Throughput(kind="streams", count=4, latency=median * 2.8, frames_per_second=4000 / (median * 2.8)),
    )


def _no_operators(target: str) -> Operators:
    return Operators(by="", unavailable=f"the engine of {target} has no profiler that can be asked")


def _roofline(inference: float) -> Roofline:
    limit = 4.1
    return Roofline(
        operations=2.4e8,
        bytes=1.1e7,
        peak_operations=5.85e10,
        peak_bytes=9.1e9,
        limit=limit,
        share=limit / inference,
        bound="arithmetic",
    )


def language_profile(seed: int, target: str, precision: str, *, slower: float = 1.0) -> Profile:
    """A vision-language model: image, prompt, and tokens."""
    import msgspec

    base = profile(seed, target, precision)
    draw = np.random.default_rng(seed)
    medians: dict[StageName, float] = {"pre": 14.0, "vision": 620.0 * slower, "prefill": 410.0 * slower}
    medians["decode"] = 1900.0 * slower
    rounds = _rounds(draw, medians, 3, 0.006)
    total = distribution([value for one in rounds for value in one.total[one.warm_up :]])
    subject = msgspec.structs.replace(
        base.subject, name=f"blip2-{target}", task="caption", size=(224, 224), bytes=3_900_000_000, agreement=0.995
    )
    return msgspec.structs.replace(
        base,
        id=f"language{seed}",
        subject=subject,
        rounds=rounds,
        total=total,
        stages={
            stage: distribution([value for one in rounds for value in one.stages[stage][one.warm_up :]])
            for stage in medians
        },
        frames_per_second=1000 / total.mean,
        first_token=distribution([(1044.0 * slower) * (1 + 0.004 * step) for step in range(20)]),
        tokens_per_second=16.3 / slower,
        operators=None,
        roofline=None,
    )


def matrix() -> list[Profile]:
    """Many targets and precisions on a board, some on a second machine, nasty and long names, and BLIP-2."""
    made = [
        profile(place * 3 + step, target, precision, more=target == "litert" and precision != "fp16")
        for place, target in enumerate(("ncnn", "litert", "openvino", "onnx", "mnn", "executorch", "ethosu"))
        for step, precision in enumerate(("fp32", "fp16", "int8"))
        if not (target == "ethosu" and precision != "int8")
    ]
    made += [
        profile(70, "onnx", "fp32", device="desk", name=NASTY, noise=0.08),
        profile(71, "litert", "int8", device="desk", name=LONG, agreement=None),
        language_profile(80, "onnx", "int8"),
        language_profile(81, "openvino", "int8", slower=0.8),
    ]
    return made


def with_accuracy(given: Profile, value: float, metric: str = "mAP50-95") -> Profile:
    """The same with what ``edgekit evaluate`` found."""
    import msgspec

    return msgspec.structs.replace(given, accuracy=Accuracy(metric=metric, value=value, data="shapes, 200 images"))


def forty() -> list[Profile]:
    """Every target in every precision, and one more."""
    made = [
        profile(200 + 3 * place + step, target, precision)
        for place, target in enumerate(SPEED)
        for step, precision in enumerate(GAIN)
    ]
    return [*made, profile(300, "onnx", "fp32", name="another")]
