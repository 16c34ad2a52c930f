"""Verdicts over recorded calls: what benchmarks/profiling.py measured of the demo detector on a shared virtual machine.

``recorded_rounds.npz`` has 20 sessions; in each the bundle was measured twice, and once with every inference slowed by
20 %, in turns, in 8 rounds of fresh processes: (20, 3, 8, calls) microseconds, -1 after the last call.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sample_profiles import profile

from edgekit.profiling.record import Profile, Round
from edgekit.profiling.records.comparison import compare
from edgekit.profiling.statistics import distribution, warm_up
from edgekit.profiling.summary import settled

SESSIONS = 20


@pytest.fixture(scope="module")
def sessions() -> list[list[Profile]]:
    """Each session's three records: the bundle, the bundle again, and slowed down."""
    samples = np.load(Path(__file__).with_name("recorded_rounds.npz"))["microseconds"]
    assert samples.shape[:3] == (SESSIONS, 3, 8)
    return [
        [recorded(samples[number, place] / 1e3, f"session {number}", f"{number}.{place}") for place in range(3)]
        for number in range(SESSIONS)
    ]


def recorded(times: np.ndarray, session: str, name: str) -> Profile:
    """A record of these rounds."""
    rounds = []
    for one in times:
        total = tuple(float(value) for value in one if value > 0)
        cut, steady = warm_up(total)
        rounds.append(Round(total=total, stages={}, warm_up=cut, settled=steady))
    every = distribution(np.concatenate([settled(one) for one in rounds]))
    base = profile(1, "onnx", "fp32")
    return msgspec.structs.replace(base, rounds=tuple(rounds), total=every, session=session, id=name)


def slower(given: Profile, share: float, session: str = "") -> Profile:
    """The same record with every call slowed down."""
    rounds = tuple(
        msgspec.structs.replace(one, total=tuple(share * value for value in one.total)) for one in given.rounds
    )
    return msgspec.structs.replace(given, rounds=rounds, session=session or given.session)


def test_the_same_bundle_is_not_called_different_in_turns(sessions: list[list[Profile]]) -> None:
    told = [compare(again, one).verdict for one, again, _ in sessions]
    assert told.count("no difference") >= 19


def test_a_real_slow_down_of_20_percent_is_found_in_turns(sessions: list[list[Profile]]) -> None:
    told = [compare(slow, one).verdict for one, _, slow in sessions]
    assert told.count("slower") >= 19


def test_a_calculated_one_is_found_as_well(sessions: list[list[Profile]]) -> None:
    told = [compare(slower(again, 1.2), one) for one, again, _ in sessions]
    assert sum(one.verdict == "slower" for one in told) >= 19
    assert sum(one.interval.low < 1.2 < one.interval.high for one in told) >= 19


def test_a_faster_one_is_found_as_well(sessions: list[list[Profile]]) -> None:
    told = [compare(slower(again, 1 / 1.2), one).verdict for one, again, _ in sessions]
    assert told.count("faster") >= 19


def test_sessions_one_after_another_are_not_called_different(sessions: list[list[Profile]]) -> None:
    firsts = [one for one, *_ in sessions]
    told = [compare(after, before) for before, after in zip(firsts, [*firsts[1:], firsts[0]], strict=True)]
    assert not any(one.paired for one in told)
    assert sum(one.verdict == "no difference" for one in told) >= 19
    learnt = [compare(after, before, firsts) for before, after in itertools.pairwise(firsts)]
    assert sum(one.verdict == "no difference" for one in learnt) >= 18


def test_calls_as_the_sample_would_call_equal_things_different(sessions: list[list[Profile]]) -> None:
    """The negative control: what the interval over rounds is for."""
    from scipy.stats import ttest_ind

    wrong = 0
    for one, again, _ in sessions:
        ours, theirs = (np.log(np.concatenate([settled(part) for part in each.rounds])) for each in (again, one))
        wrong += ttest_ind(ours, theirs, equal_var=False).pvalue < 0.01
    assert wrong >= 2
