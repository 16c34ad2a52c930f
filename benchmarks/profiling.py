"""Does ``edgekit profile compare`` find what is there, and only that? Real runs on this machine.

Twenty times the same bundle is measured twice, and once more with every inference slowed down by 20 %, all in turns in
one session. Of the first pair no difference should be told, of the second one. Prints how often, what sums of stages
make of end to end, and the machine's noise; ``--record FILE.npz`` keeps the samples (tests/recorded_rounds.npz is one).

    python benchmarks/profiling.py out/demo/shapes-onnx-fp32
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import numpy as np

from edgekit.profiling.protocol import Event, Profiled, SessionJob
from edgekit.profiling.record import Profile, Settings
from edgekit.profiling.records.comparison import compare
from edgekit.profiling.session import run_session
from edgekit.profiling.summary import settled

SLOWER = 20.0


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--comparisons", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    plain = Settings(rounds=given.rounds, seconds=given.seconds, threads=given.threads, operators=False)
    slowed = msgspec.structs.replace(plain, delay=SLOWER)
    told, found, first, kept = 0, 0, [], []
    for number in range(given.comparisons):
        seeded = msgspec.structs.replace(plain, seed=number)
        one, other, slow = session(given.bundle, (seeded, plain, slowed))
        same, different = compare(other, one), compare(slow, one)
        told += same.verdict != "no difference"
        found += different.verdict == "slower"
        first.append(one)
        kept += [one, other, slow]
        print(f"{number + 1:3d}: {interval(same)} the same; {interval(different)} slowed; spread {one.spread:.3f}")
    across = [compare(a, b).verdict for a, b in zip(first[1:], first, strict=False)]
    sums = [sum(np.sum(settled(r, s)) for r in one.rounds for s in r.stages) for one in kept]
    whole = [sum(np.sum(settled(r)) for r in one.rounds) for one in kept]
    print(f"in turns: the same called different {told} of {given.comparisons} times")
    print(f"in turns: {SLOWER:g} % slower found {found} of {given.comparisons} times")
    print(f"sessions after one another: called different {sum(v != 'no difference' for v in across)} of {len(across)}")
    ratios = np.array(sums) / np.array(whole)
    print(f"stages over end to end: {ratios.min():.4f} to {ratios.max():.4f}")
    if given.record:
        record(kept, given.record)


def session(bundle: Path, each: tuple[Settings, ...]) -> list[Profile]:
    """The same bundle with several settings, in turns."""
    events: list[Event] = []
    run_session(SessionJob(bundles=(str(bundle),) * len(each), settings=each[0], each=each), events.append)
    found = [event.profile for event in events if isinstance(event, Profiled)]
    if len(found) != len(each):
        raise SystemExit(f"not measured: {[event for event in events if 'reason' in type(event).__struct_fields__]}")
    return found


def interval(comparison) -> str:  # type: ignore[no-untyped-def]
    """A ratio with its bounds."""
    one = comparison.interval
    return f"{one.ratio:.3f} ({one.low:.3f} to {one.high:.3f})"


def record(profiles: list[Profile], path: Path) -> None:
    """Keep the calls of every round in microseconds, -1 after the last: (sessions, 3, rounds, calls)."""
    longest = max(len(one.total) for profile in profiles for one in profile.rounds)
    rounds = len(profiles[0].rounds)
    samples = np.full((len(profiles), rounds, longest), -1, np.int32)
    for place, profile in enumerate(profiles):
        for number, one in enumerate(profile.rounds):
            samples[place, number, : len(one.total)] = np.round(1e3 * np.array(one.total))
    np.savez_compressed(path, microseconds=samples.reshape(-1, 3, rounds, longest))


if __name__ == "__main__":
    main()
