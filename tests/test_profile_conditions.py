"""What boards and systems tell, from files and tools as they are there: recorded trees, and small programs on PATH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit.profiling import conditions
from edgekit.profiling.boards import board, jetson, mac, raspberry_pi, said
from edgekit.worker import memory

PI_TREE = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/meminfo": "MemTotal:        8245248 kB\nMemAvailable:    7000000 kB\n",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2400000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48250\n",
    "sys/class/thermal/thermal_zone1/type": "pmic\n",
    "sys/class/thermal/thermal_zone1/temp": "61000\n",
}
JETSON_TREE = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
}
PC_TREE = {
    "proc/cpuinfo": "model name\t: Some CPU @ 2.0GHz\ncpu MHz\t\t: 2100.125\nflags\t\t: fpu hypervisor avx2\n",
    "sys/class/dmi/id/sys_vendor": "Vendor\n",
    "sys/class/dmi/id/product_name": "Machine 7\n",
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "30000\n",
    "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp\n",
    "sys/class/thermal/thermal_zone1/temp": "71000\n",
}
TEGRASTATS = (
    "11-22-2026 10:00:00 RAM 2364/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) CPU [3%@1510,0%@1344,off,off] "
    "GR3D_FREQ 0%@306 cpu@48.843C soc2@47.5C gpu@-256C tj@49.1C VDD_IN 4640mW/4640mW"
)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of its own for the system's files."""
    monkeypatch.setenv("EDGEKIT_SYSTEM_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(jetson, "RELEASE", tmp_path / "root/etc/nv_tegra_release")
    return tmp_path / "root"


def write(root: Path, tree: dict[str, str]) -> None:
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def program(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small shell program that is found first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_raspberry_pi_by_its_files_and_its_firmware(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(system, PI_TREE)
    answers = 'case "$1" in measure_temp) echo "temp=51.6\'C";; measure_clock) echo "frequency(0)=2400033792";; '
    answers += 'get_throttled) echo "throttled=0x50005";; esac'
    program(tmp_path / "bin", "vcgencmd", answers, monkeypatch)
    machine, state = conditions.machine("pi5"), conditions.state()
    assert board() is raspberry_pi
    assert (machine.key, machine.model, machine.soc) == ("pi5", "Raspberry Pi 5 Model B Rev 1.0", "brcm,bcm2712")
    assert machine.system.startswith("Debian GNU/Linux 12 (bookworm), ")
    assert machine.memory == 8245248 * 1024
    assert not machine.virtual
    assert (state.governor, state.megahertz_limit, state.free_memory) == ("ondemand", 2400, 7000000 * 1024)
    assert (state.celsius, state.megahertz) == (51.6, pytest.approx(2400.033792))
    assert state.throttled == "under-voltage, throttled, under-voltage has occurred, throttling has occurred"


def test_without_its_tool_the_system_files_speak(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(system, PI_TREE)
    monkeypatch.setenv("PATH", str(system))
    state = conditions.state()
    assert (state.celsius, state.megahertz, state.throttled) == (48.25, 2400, None)


@pytest.mark.parametrize(
    ("bits", "words"),
    [(0, ""), (0x1, "under-voltage"), (0x80008, "at the soft temperature limit, the soft temperature limit has been")],
)
def test_throttling_is_told_in_words(bits: int, words: str) -> None:
    assert raspberry_pi.words(bits).startswith(words)
    assert bool(raspberry_pi.words(bits)) == bool(bits)


def test_a_jetson_by_nvpmodel_and_one_line_of_tegrastats(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(system, JETSON_TREE)
    program(tmp_path / "bin", "nvpmodel", "echo 'NV Power Mode: MAXN_SUPER'; echo 0", monkeypatch)
    program(tmp_path / "bin", "tegrastats", f"while true; do echo '{TEGRASTATS}'; sleep 0.1; done", monkeypatch)
    state = conditions.state()
    assert (state.power_mode, state.megahertz, state.celsius) == ("MAXN_SUPER", 1510, 49.1)
    assert "NVIDIA GPU" in conditions.machine().accelerator


def test_a_jetson_without_its_tools_tells_nothing_and_breaks_nothing(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(system, JETSON_TREE)
    monkeypatch.setenv("PATH", str(system))
    state = conditions.state()
    assert (state.power_mode, state.megahertz, state.celsius) == (None, None, None)


def test_a_pc_by_its_files(system: Path) -> None:
    write(system, PC_TREE)
    machine, state = conditions.machine(), conditions.state()
    assert board() is None
    assert (machine.model, machine.soc, machine.virtual) == ("Vendor Machine 7", "Some CPU @ 2.0GHz", True)
    assert (state.megahertz, state.celsius, state.governor) == (2100.125, 71, None)  # the package, not the case


def test_a_system_that_tells_nothing_is_no_error(system: Path) -> None:
    system.mkdir()
    state = conditions.state()
    assert (state.celsius, state.megahertz, state.governor, state.free_memory) == (None, None, None, None)
    assert conditions.machine().cores >= 1


def test_a_tool_that_fails_or_hangs_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "broken", "echo half; exit 1", monkeypatch)
    assert said("broken") == ""
    assert said("there-is-no-such-tool") == ""


def test_macs_are_no_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: Path) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    program(tmp_path / "bin", "sysctl", 'case "$2" in hw.model) echo Mac15,3;; *) echo "Apple M3";; esac', monkeypatch)
    program(tmp_path / "bin", "pmset", "echo 'CPU_Speed_Limit \t= 80'", monkeypatch)
    assert board() is mac
    assert (mac.model(), mac.soc(), mac.state().throttled) == ("Mac15,3", "Apple M3", "CPU limited to 80 %")


def test_versions_are_those_of_the_engine_and_what_takes_part() -> None:
    import msgspec
    import numpy as np

    found = conditions.packages(("msgspec", "there_is_no_such_module"))
    assert (found["numpy"], found["msgspec"]) == (np.__version__, msgspec.__version__)
    assert "there_is_no_such_module" not in found


def test_memory_grows_with_what_is_kept() -> None:
    before = memory.resident()
    kept = bytearray(os.urandom(1 << 20) * 64)
    assert memory.resident() - before > 48 << 20
    assert memory.peak() >= memory.resident() - (1 << 20)
    assert memory.threads() >= 1
    assert len(kept) == 64 << 20


def test_a_gpus_memory_is_that_of_the_process_alone() -> None:
    told = "123, 512\n77, 64\n123, 8\n9, [N/A]\n"
    assert memory.gpu_bytes(told, 123) == 520 << 20
    assert memory.gpu_bytes(told, 9) is None
    assert memory.gpu_bytes("", 1) is None
