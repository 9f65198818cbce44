"""Meters on made-up trees of sysfs and procfs: real small files, and what goes wrong with them."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from splitbed.record import ReadingSource
from splitbed.resources import battery, frequency, gpu, heat, hwmon, rapl
from splitbed.resources.gauge import Counters, Gauge, Gauges, Meter, NumberFile, measured
from splitbed.resources.meters import MOST_READINGS, Meters, _shared, borrow, give_back
from splitbed.resources.process import ProcessMeter
from splitbed.resources.system import SystemMeter
from tests.unit.pretend_nvml import PretendNvml

SECOND = 1_000_000_000


def put(root: Path, files: dict[str, object]) -> Path:
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def source(meter: Meter, name: str) -> ReadingSource:
    return next(s for s in meter.sources() if s.name == name)


def domain(root: Path, place: str, name: str, energy: object, most: object = 1_000_000) -> None:
    put(
        root,
        {
            f"sys/class/powercap/{place}/name": name,
            f"sys/class/powercap/{place}/energy_uj": energy,
            f"sys/class/powercap/{place}/max_energy_range_uj": most,
        },
    )


def count(root: Path, place: str, energy: object) -> None:
    (root / f"sys/class/powercap/{place}/energy_uj").write_text(f"{energy}\n")


def two_sockets(root: Path) -> None:
    domain(root, "intel-rapl:0", "package-0", 100)
    domain(root, "intel-rapl:0:0", "core", 50)
    domain(root, "intel-rapl:0:1", "dram", 10)
    domain(root, "intel-rapl:1", "package-1", 200)
    domain(root, "intel-rapl:1:0", "dram", 20)
    domain(root, "intel-rapl:2", "psys", 900)
    domain(root, "intel-rapl-mmio:0", "package-0", 100)


# ------------------------------------------------------------------------------------------- RAPL


def test_packages_and_their_memory_are_added_once(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    meter = rapl.find(tmp_path)
    assert meter.read(SECOND) == {"rapl_j": 0, "rapl_psys_j": 0}
    for place, energy in (
        ("intel-rapl:0", 1100),
        ("intel-rapl:0:0", 999_999),  # part of the package
        ("intel-rapl:0:1", 110),
        ("intel-rapl:1", 2200),
        ("intel-rapl:1:0", 220),
        ("intel-rapl:2", 50_900),
        ("intel-rapl-mmio:0", 999_999),  # the same package again
    ):
        count(tmp_path, place, energy)
    assert meter.read(2 * SECOND) == pytest.approx(
        {"rapl_j": (1000 + 100 + 2000 + 200) / 1e6, "rapl_psys_j": 0.05}
    )
    text = source(meter, "rapl_j").source
    assert "package-0 + dram of 0 + package-1 + dram of 1" in text
    assert "whole machine" in text
    assert source(meter, "rapl_j").how == "measured"
    meter.close()
    meter.close()
    assert meter.read(3 * SECOND) == {}


def test_a_counter_that_wraps_counts_on(tmp_path: Path) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 999_000)
    meter = rapl.find(tmp_path)
    meter.read(SECOND)
    for at, (raw, total) in enumerate(((999_900, 900), (100, 1100), (50, 1_001_050)), 2):
        count(tmp_path, "intel-rapl:0", raw)
        assert meter.read(at * SECOND) == pytest.approx({"rapl_j": total / 1e6})


def test_a_counter_that_was_set_back_is_lost_and_never_guessed(tmp_path: Path) -> None:
    """Wrapped around 10 GJ within a second: no machine draws that."""
    domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000, most=10**16)
    meter = rapl.find(tmp_path)
    meter.read(SECOND)
    count(tmp_path, "intel-rapl:0", 0)
    assert meter.read(2 * SECOND) == {}
    count(tmp_path, "intel-rapl:0", 100)
    assert meter.read(3 * SECOND) == {}
    assert source(meter, "rapl_j").reason == "ended early: the counter was set back"


def test_energy_that_only_root_may_read_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 1)
    opened = os.open

    def locked(path: Any, *more: Any) -> int:
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *more)

    monkeypatch.setattr(os, "open", locked)  # tests may run as root, who is never refused
    found = source(rapl.find(tmp_path), "rapl_j")
    assert found.how == "unavailable"
    assert "CVE-2020-8694" in found.reason
    assert "chmod a+r" in found.reason


def test_a_domain_that_cannot_be_read_makes_the_sum_unavailable(tmp_path: Path) -> None:
    two_sockets(tmp_path)
    (tmp_path / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    meter = rapl.find(tmp_path)
    assert source(meter, "rapl_j").how == "unavailable"
    assert set(meter.read(SECOND)) == {"rapl_psys_j"}


# ------------------------------------------------------------------------------ files that go wrong


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "empty"), ("  \n", "empty"), ("garbage", "no number"), ("1 2", "no number")],
)
def test_what_is_no_number_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "f").write_text(content)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=reason):
        NumberFile(tmp_path / "f")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_gauge_that_fails_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    put(tmp_path, {"a": 1, "b": 2})
    names = ("a_w", "b_w")
    gauges = [Gauge(n, [NumberFile(tmp_path / n[0])], 1) for n in names]
    meter = Gauges(gauges, [measured(n, "a file") for n in names])
    assert meter.read(1) == {"a_w": 1, "b_w": 2}
    (tmp_path / "a").write_text("?")
    for _ in range(3):
        assert meter.read(1) == {"b_w": 2}
    put(tmp_path, {"a": 7})
    assert meter.read(1) == {"a_w": 7, "b_w": 2}  # it had not failed often enough
    (tmp_path / "a").write_text("")
    for _ in range(6):
        assert meter.read(1) == {"b_w": 2}
    put(tmp_path, {"a": 7})
    assert meter.read(1) == {"b_w": 2}
    assert source(meter, "a_w").reason == "ended early: the file is empty"
    assert source(meter, "b_w").reason == ""


def test_an_error_of_the_device_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"a": 1})
    meter = Gauges([Gauge("a_w", [NumberFile(tmp_path / "a")], 1)], [measured("a_w", "a file")])

    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    for _ in range(6):
        assert meter.read(1) == {}
    assert source(meter, "a_w").reason == "ended early: Input/output error"


def test_a_counter_misses_nothing_while_it_cannot_be_read(tmp_path: Path) -> None:
    put(tmp_path, {"a": 10})
    counter = Counters("a_j", [NumberFile(tmp_path / "a")], 1, [1000])
    put(tmp_path, {"a": "?"})
    with pytest.raises(ValueError, match="no number"):
        counter.value(SECOND)
    put(tmp_path, {"a": 60})
    assert counter.value(2 * SECOND) == 50


def test_many_gauges_are_read_in_turn(tmp_path: Path) -> None:
    for core in range(20):
        put(
            tmp_path,
            {f"sys/devices/system/cpu/cpufreq/policy{core}/scaling_cur_freq": 1000 + core},
        )
    meter = frequency.find(tmp_path)
    seen: dict[str, float] = {}
    for _ in range(3):
        found = meter.read(1)
        assert len(found) == 8
        seen |= found
    assert seen == {f"freq_policy{core}_hz": (1000 + core) * 1e3 for core in range(20)}


# ------------------------------------------------------------------------------- boards and phones


def test_sensors_of_a_board(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "sys/class/hwmon/hwmon0/name": "ina3221",
            "sys/class/hwmon/hwmon0/in1_label": "VDD_IN",
            "sys/class/hwmon/hwmon0/in1_input": 5000,
            "sys/class/hwmon/hwmon0/curr1_input": 800,
            "sys/class/hwmon/hwmon0/in2_label": "VDD_CPU_GPU_CV",
            "sys/class/hwmon/hwmon0/in2_input": 5000,
            "sys/class/hwmon/hwmon0/curr2_input": 100,
            "sys/class/hwmon/hwmon1/name": "power_meter",
            "sys/class/hwmon/hwmon1/power1_average": 250_000_000,
            "sys/class/hwmon/hwmon2/name": "nvme",
            "sys/class/hwmon/hwmon2/temp1_input": 40_000,
        },
    )
    meter = hwmon.find(tmp_path)
    assert meter.read(1) == pytest.approx(
        {
            "hwmon_ina3221_vdd-in_w": 4.0,
            "hwmon_ina3221_vdd-cpu-gpu-cv_w": 0.5,
            "hwmon_power-meter_1_w": 250,
        }
    )
    scopes = {s.name.split("_")[2]: s.scope for s in meter.sources()}
    assert scopes == {"vdd-in": "machine", "vdd-cpu-gpu-cv": "part", "1": "machine"}


def phone(root: Path, **more: object) -> Path:
    files: dict[str, object] = {"type": "Battery", "status": "Discharging", **more}
    return put(root, {f"sys/class/power_supply/battery/{name}": v for name, v in files.items()})


def test_a_battery_by_current_and_voltage_of_either_sign(tmp_path: Path) -> None:
    meter = battery.find(phone(tmp_path, current_now=-500_000, voltage_now=4_000_000))
    assert meter.read(1) == pytest.approx({"battery_w": 2.0})
    assert source(meter, "battery_w").window_s == battery.WINDOW_S
    (tmp_path / "sys/class/power_supply/battery/status").write_text("Charging\n")
    assert meter.read(1) == {}


def test_a_battery_that_is_charged_says_to_unplug(tmp_path: Path) -> None:
    meter = battery.find(phone(tmp_path, power_now=3_000_000, status="Charging"))
    assert meter.read(1) == {}
    assert "unplug" in source(meter, "battery_w").reason


def test_the_battery_of_a_mouse_is_not_the_machines(tmp_path: Path) -> None:
    meter = battery.find(phone(tmp_path, power_now=3_000_000, scope="Device"))
    assert source(meter, "battery_w").how == "unavailable"


def termux(folder: Path, answer: str) -> battery.TermuxBattery:
    script = folder / "termux-battery-status"
    script.write_text(f"#!/bin/sh\n{answer}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return battery.TermuxBattery(str(script))


def answered(meter: battery.TermuxBattery) -> dict[str, float]:
    """Its next answer; it is read as often as a sampler would."""
    assert meter.read(SECOND) == {}
    assert meter._running is not None
    meter._running.wait(20)
    return meter.read(SECOND + 1)


@pytest.mark.parametrize(
    ("told", "watts", "how"),
    [
        ('"current": -400000, "voltage": 4000, "status": "DISCHARGING"', 1.6, "measured"),
        ('"current": 400000, "status": "NOT_CHARGING"', 1.54, "modelled"),
    ],
)
def test_a_phone_by_termux(tmp_path: Path, told: str, watts: float, how: str) -> None:
    meter = termux(tmp_path, f"echo '{{{told}}}'")
    assert answered(meter) == pytest.approx({"battery_w": watts})
    assert source(meter, "battery_w").how == how
    assert meter.read(2 * SECOND) == {}  # not asked again so soon
    assert meter._running is None
    meter.close()


@pytest.mark.parametrize("answer", ["echo garbage", "echo '{}'", "exit 1", "exec cat /dev/zero"])
def test_a_phone_that_answers_nonsense_is_unavailable(tmp_path: Path, answer: str) -> None:
    meter = termux(tmp_path, answer)
    now = SECOND
    for _ in range(8):
        meter.read(now)
        if meter._running is not None and "zero" not in answer:
            meter._running.wait(20)
        now += 11 * SECOND
    assert source(meter, "battery_w").how == "unavailable"
    assert source(meter, "battery_w").reason
    assert meter._running is None
    assert meter.read(now + 99 * SECOND) == {}


# -------------------------------------------------------------------------------------------- heat


def test_temperatures_and_throttling_of_a_pc(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp",
            "sys/class/thermal/thermal_zone0/temp": 71_500,
            "sys/class/hwmon/hwmon0/name": "k10temp",
            "sys/class/hwmon/hwmon0/temp1_input": 60_000,
        },
    )
    for core in range(18):
        put(
            tmp_path,
            {
                f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count": 5,
                f"sys/devices/system/cpu/cpu{core}/thermal_throttle/package_throttle_count": 9,
                f"sys/devices/system/cpu/cpu{core}/topology/physical_package_id": core // 9,
            },
        )
    meter = heat.find(tmp_path)
    first = meter.read(SECOND)
    assert first == {
        "temp_x86-pkg-temp-0_celsius": 71.5,
        "temp_k10temp-0_celsius": 60,
        "throttle_core_count": 0,
        "throttle_package_count": 0,
    }
    put(tmp_path, {"sys/devices/system/cpu/cpu17/thermal_throttle/core_throttle_count": 8})
    put(tmp_path, {"sys/devices/system/cpu/cpu9/thermal_throttle/package_throttle_count": 10})
    last = [meter.read(at * SECOND) for at in range(2, 6)][-1]
    assert (last["throttle_core_count"], last["throttle_package_count"]) == (3, 1)


def test_a_board_that_slows_itself_down(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0",
            "sys/class/thermal/cooling_device0/cur_state": 2,
            "sys/class/thermal/cooling_device1/type": "pwm-fan",
            "sys/class/thermal/cooling_device1/cur_state": 4,
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005",
        },
    )
    assert heat.find(tmp_path).read(1) == {
        "cooling_0_flags": 2,
        "firmware_throttled_flags": 0x50005,
    }


# ---------------------------------------------------------------------------------------- the GPU


def test_what_a_gpu_tells() -> None:
    fake = PretendNvml(lacks=("nvmlDeviceGetTemperature",))
    meter = gpu.find(fake)
    meter.read(1)
    fake.millijoules += 2500
    assert meter.read(2) == {
        "gpu0_pct": 40,
        "gpu0_memory_pct": 10,
        "gpu0_memory_bytes": 3e9,
        "gpu0_w": 123,
        "gpu0_j": 2.5,
        "gpu0_sm_hz": 1.5e9,
        "gpu0_memory_hz": 3e9,
        "gpu0_throttle_flags": 0x24,
    }
    assert source(meter, "gpu0_celsius").how == "unavailable"
    assert source(meter, "gpu0_celsius").reason == "Not Supported"
    assert "A card" in source(meter, "gpu0_j").source
    meter.close()
    meter.close()
    assert fake.up == 0


def test_a_gpu_without_a_counter_still_tells_its_power() -> None:
    meter = gpu.find(PretendNvml(lacks=("nvmlDeviceGetTotalEnergyConsumption",)))
    assert "gpu0_j" not in meter.read(1)
    assert "gpu0_w" in meter.read(2)


def test_no_driver_and_no_library_are_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver(PretendNvml):
        def nvmlInit(self) -> None:
            raise self.NVMLError("Driver Not Loaded")

    (found,) = gpu.find(NoDriver()).sources()
    assert (found.how, "Driver Not Loaded" in found.reason) == ("unavailable", True)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (found,) = gpu.find().sources()
    assert "pip install nvidia-ml-py" in found.reason


# ------------------------------------------------------------------------------------- everything


STATUS = "VmHWM:\t    2000 kB\nVmRSS:\t    1000 kB\nThreads:\t3\n"


def test_this_process_and_its_system(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "proc/self/status": STATUS,
            "proc/stat": "cpu  100 20 30 800 50 0 0 0 40 0\ncpu0 1 1 1 1",
        },
    )
    used = ProcessMeter(tmp_path).read()
    assert (used.rss_bytes, used.rss_peak_bytes, used.threads) == (1_024_000, 2_048_000, 3)
    times = SystemMeter(tmp_path).read()
    assert times is not None
    ticks = os.sysconf("SC_CLK_TCK")
    assert (times.busy_s, times.idle_s) == (150 / ticks, 850 / ticks)  # a guest's time once


@pytest.mark.parametrize("stat_line", [None, "", "garbage", "cpu 1 2", "cpu a b c d e f g h"])
def test_where_procfs_is_not_to_be_had_psutil_is_asked(
    tmp_path: Path, stat_line: str | None
) -> None:
    if stat_line is not None:
        put(tmp_path, {"proc/stat": stat_line})
    times = SystemMeter(tmp_path).read()
    assert times is not None
    assert times.busy_s > 0
    used = ProcessMeter(tmp_path).read()
    assert used.rss_bytes > 1_000_000
    assert used.threads >= 1


def refused(*_: object, **__: object) -> Any:
    raise PermissionError(13, "Permission denied")


def test_android_does_not_tell_how_busy_its_cores_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_times", refused)
    meter = SystemMeter(tmp_path)
    assert meter.read() is None
    assert [s.name for s in meter.sources()] == ["system_cpu_pct", "system_cpu_ns"]
    for found in meter.sources():
        assert found.how == "unavailable"
        assert "Permission denied" in found.reason
    monkeypatch.undo()
    assert meter.read() is not None
    assert {(s.how, s.reason) for s in meter.sources()} == {("measured", "")}
    monkeypatch.setattr(psutil, "cpu_times", refused)
    assert meter.read() is None
    assert {(s.how, s.reason) for s in meter.sources()} == {
        ("measured", "ended early: Permission denied")
    }


def test_a_machine_whose_folders_are_closed_is_sampled_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """os.path.exists asks os.stat and says no; Path.exists asks it too and raises."""
    phone(tmp_path, current_now=1, voltage_now=1)
    put(tmp_path, {"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": 1})
    asked, real = [], os.stat

    def closed(path: Any, *more: Any, **named: Any) -> os.stat_result:
        if str(path).startswith(str(tmp_path)):
            asked.append(Path(path).name)
            refused()
        return real(path, *more, **named)

    monkeypatch.setattr(os, "stat", closed)  # tests may run as root, who is never refused
    meters = Meters("device", tmp_path)
    assert {"core_throttle_count", "get_throttled", "power_now"} <= set(asked)
    assert meters.read().process.rss_bytes > 0
    assert source(meters.by_name["heat"], "throttle_count").how == "unavailable"
    meters.close()


def test_a_machine_that_tells_nothing_says_so_of_everything(tmp_path: Path) -> None:
    meters = Meters("device", tmp_path)
    assert meters.read().readings == {}
    unavailable = {s.name: s for s in meters.sources() if s.how == "unavailable"}
    assert set(unavailable) == {
        *("rapl_j", "hwmon_w", "battery_w", "freq_hz", "temp_celsius", "throttle_count")
    }
    assert all(s.reason for s in unavailable.values())
    meters.close()


def test_readings_of_a_sample_are_bounded(tmp_path: Path) -> None:
    for core in range(60):
        put(
            tmp_path,
            {f"sys/devices/system/cpu/cpufreq/policy{core}/scaling_cur_freq": 1},
        )
        put(
            tmp_path,
            {
                f"sys/class/thermal/thermal_zone{core}/temp": 1,
                f"sys/class/hwmon/hwmon{core}/name": "ina219",
                f"sys/class/hwmon/hwmon{core}/power1_input": 1,
            },
        )
    meters = Meters("device", tmp_path)
    assert len(meters.read().readings) <= MOST_READINGS
    meters.close()
    assert meters.by_name["hwmon"].read(1) == {}


def test_samplers_of_a_process_share_their_meters() -> None:
    first, second = borrow("edge"), borrow("edge")
    assert first is second
    snapshot = first.read()
    assert second.read(10 * SECOND) is snapshot
    assert second.read() is not snapshot
    give_back("edge")
    assert first.read().process.rss_bytes > 0
    give_back("edge")
    if _shared.get("edge") is None:  # no other test left an edge open
        third = borrow("edge")
        assert third is not first
        give_back("edge")


def test_a_device_never_asks_for_gpus() -> None:
    meters = Meters("device")
    assert "gpu" not in meters.by_name
    meters.close()
