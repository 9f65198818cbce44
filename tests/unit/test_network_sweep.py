"""What a sweep of the network asks for, what it refuses, and what it need not measure again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from experiments.commands import network_sweep as command
from experiments.network_sweep import Configuration, Sweep, SweptLink, read_sweep
from netem import backend
from splitbed.errors import LinkError, RunIncomplete, SplitbedError, UsageError
from splitbed.link import Direction, LinkProfile
from tests.unit.test_summary import CERTIFICATE, THREE, written

ROOT = Path(__file__).resolve().parents[2]
GESTURE = ROOT / "models" / "gesture" / "gesture.onnx"
TEXT = f"""
[run]
model = "{GESTURE}"
frames = 3

[network_sweep]
points = ["@picture jpeg:90", "layer3 quantize:4+zstd:3"]
rates = ["1mbit", "10mbit"]
delays = ["0ms", "5ms"]
losses = ["0%"]
links = ["up=5mbit,down=50mbit", "5g-urban-macro"]
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the sweep's file, changed as in `old => new`."""

    def file(*changes: str) -> Path:
        text = TEXT
        for old, new in (change.split(" => ") for change in changes):
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "sweep.toml"
        path.write_text(text)
        return path

    return file


def plan(file: Path, out: Path) -> int:
    return command.main(["plan", str(file), str(out)])


# ------------------------------------------------------------------------------------- what it asks


def test_every_point_on_every_link(write: Write, tmp_path: Path) -> None:
    sweep = read_sweep(write(), tmp_path)
    assert sweep.links == (
        SweptLink("rate=1mbit", "1mbit", "", ""),
        SweptLink("rate=10mbit", "10mbit", "", ""),
        SweptLink("rate=1mbit,delay=5ms", "1mbit", "5ms", ""),
        SweptLink("rate=10mbit,delay=5ms", "10mbit", "5ms", ""),
        SweptLink("up=5mbit,down=50mbit"),
        SweptLink("5g-urban-macro"),
    )
    assert [link.label for link in sweep.links[2:5]] == [
        "1mbit 5ms",
        "10mbit 5ms",
        "up=5mbit,down=50mbit",
    ]
    assert sweep.configurations[:3] == [
        Configuration("@picture", "jpeg:90", "rate=1mbit"),
        Configuration("layer3", "quantize:4+zstd:3", "rate=1mbit"),
        Configuration("@picture", "jpeg:90", "rate=10mbit"),
    ]
    assert len(set(sweep.configurations)) == 12


def test_what_is_said_twice_is_measured_once(write: Write, tmp_path: Path) -> None:
    again = write('"10mbit"] => "10mbit", "1mbit"]', "5g-urban-macro => rate=1mbit")
    assert len(read_sweep(again, tmp_path).links) == 5


def test_each_line_of_the_plan_is_a_run(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "two words"
    assert plan(write(), out) == 0
    told = capsys.readouterr()
    lines = [shlex.split(line) for line in told.out.splitlines()]
    assert len(lines) == 12
    assert lines[1][:6] == [
        "--cut",
        "layer3",
        "--codec",
        "quantize:4+zstd:3",
        "--link",
        "rate=1mbit",
    ]
    assert lines[1][lines[1].index("--out") + 1] == str(out)
    assert len(list((out / "pictures" / "measured").glob("*.png"))) == 3
    assert len(list((out / "pictures" / "calibration").glob("*.png"))) == 16
    assert "12 configurations: 2 points on 6 links; 0 of them" in told.err


def test_a_point_may_be_searched_for(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write("layer3 quantize:4+zstd:3 => layer3 auto:1pp")
    assert plan(file, tmp_path) == 0
    assert "--cut layer3 --codec auto:1pp" in capsys.readouterr().out
    assert len(list((tmp_path / "pictures" / "calibration").glob("*.png"))) == 48
    with pytest.raises(UsageError, match=r"points in .*'layer3 auto:1': .*'1' is no target"):
        read_sweep(write("layer3 quantize:4+zstd:3 => layer3 auto:1"), tmp_path)


def test_the_sweep_that_comes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no model lies: it is known by its name
    sweep = read_sweep(ROOT / "experiments" / "network_sweep.toml", tmp_path)
    command._check_link(sweep)
    command._check_points(sweep)
    assert sweep.options.model == Path("gesture")
    assert 20 <= len(sweep.configurations) <= 40


# ---------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("rates => raets", r"unknown key 'raets' in \[network_sweep\] of .*; did you mean 'rates'"),
        ("frames => frmaes", r"unknown key 'frmaes' in \[run\] of .*did you mean 'frames'"),
        ('"10mbit" => "10mb"', r"^rates in \[network_sweep\] of .*'rate=10mb' needs a number and"),
        ('"10mbit" => 10', r"'rates' in \[network_sweep\] of .* expected text, got a whole number"),
        (
            '"10mbit" => "10mbit,jitter=1ms"',
            r"^rates in .*: '10mbit,jitter=1ms' says more than one",
        ),
        ('"5ms" => "5"', r"^delays in .*'delay=5' needs a number and a unit"),
        ('"0%" => "101%"', r"^losses in .*'loss=101%' is over 100 %"),
        ("5g-urban-macro => 5g-urban-micro", r"^links in .*unknown link profile '5g-urban-micro'"),
        ("jpeg:90 => jpg:90", r"^points in .*'@picture jpg:90': unknown codec stage 'jpg'"),
        ("@picture jpeg:90 => @picture", r"^points in .*'@picture' is not a cut and a codec"),
        ("@picture => layer3", "^jpeg codes pictures .* cut at @picture"),
        ("layer3 => @picture", "^quantize codes floating-point numbers"),
        ("layer3 => layer9", "has no cut 'layer9'"),
        ("frames => link = 'none'\nframes", r"^'link' in \[run\] of .* is what a sweep gives"),
        ("frames => images = 'nowhere'\nframes", "the folder of pictures nowhere is not there"),
        ("frames => trace = 'nowhere.csv'\nframes", "nowhere.csv"),
        ("frames => edge = 'a:1'\nbackend = 'kernel'\nframes", "^--backend kernel is for a link"),
        ("frames => together = true\nframes", "^--together waits for others"),
        ("frames => batch_wait_ms = 1.0\nframes", "^--batch-wait-ms 1 is how long a batch waits"),
        ("frames => load = 'rate'\nframes", "^--load rate: give frames a second after a colon"),
        ("frames => late = 'drop'\nframes", "^--late drop says what becomes of late frames"),
        ("frames => load = 'single'\nwindow = 4\nframes", "^--load single has one frame in fl"),
        ("frames => cpus = '4000'\nframes", "^--cpus 4000: this process may not use 4000"),
        ("frames => cpus = '0'\ncpu_quota = 1.5\nframes", "^--cpu-quota 1.5 limits nothing"),
        ("gesture.onnx => other.onnx", "other.onnx needs pictures: say `images = FOLDER`"),
        ('["@picture jpeg:90", "layer3 quantize:4+zstd:3"] => []', "asks for nothing: it needs po"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, sentence: str
) -> None:
    with pytest.raises(SplitbedError, match=sentence) as refusal:
        plan(write(change), tmp_path / "out")
    assert refusal.value.exit_code in (2, 3)
    assert not capsys.readouterr().out
    assert not (tmp_path / "out").exists()


LOSSES = '"0%" => "0%", "1%", "3%"'


def test_loss_without_a_kernel_that_loses_is_refused_once(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "hosts_lack", lambda: "this kernel has no sch_netem")
    with pytest.raises(LinkError, match=r"only the kernel can make: this kernel has no sch_netem; "
                       r"or take 1%, 3% out of the sweep \(8 of its 14 links\)"):  # fmt: skip
        plan(write(LOSSES), tmp_path / "out")
    with pytest.raises(LinkError, match=r"asks for a relay; or take 1%, 3% out of the sweep"):
        plan(write(LOSSES, 'frames => backend = "relay"\nframes'), tmp_path / "out")
    with pytest.raises(LinkError, match=r"^this kernel has no sch_netem$"):
        plan(write('frames => backend = "kernel"\nframes'), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert plan(write(), tmp_path / "out") == 0


def test_a_quota_that_may_not_be_set_is_refused_once(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(cores: float) -> None:
        raise UsageError(f"--cpu-quota {cores:g} may not be set by this process")

    monkeypatch.setattr("splitbed.limits.quota.enter", refuse)
    with pytest.raises(UsageError, match=r"^--cpu-quota 0\.5 may not be set"):
        plan(write("frames => cpu_quota = 0.5\nframes"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_load_and_limits_are_those_of_every_run(sweep: Sweep, write: Write) -> None:
    """A run under another load is of another sweep."""
    run_of(sweep, 0)
    loaded = read_sweep(
        write('frames => load = "rate:30"\nwindow = 4\ndeadline_ms = 33\ncpus = "0"\nframes'),
        sweep.options.out,
    )
    assert loaded.conditions == (
        "30 frames/s, evenly; deadline 33 ms, late frames kept; 4 in flight at most; head on 1 "
        "thread; device held to core 0"
    )
    assert not loaded.measured()[0]
    run_of(loaded, 1)
    assert set(loaded.measured()[0]) == {loaded.configurations[1]}
    assert set(sweep.measured()[0]) == {sweep.configurations[0]}


def test_an_edge_that_was_started_anew_with_other_turns(write: Write, tmp_path: Path) -> None:
    """What it ran before is measured again: points on one link are compared."""
    (tmp_path / "out").mkdir()
    sweep = read_sweep(write("frames => edge = 'a:1'\nframes"), tmp_path / "out")
    run_of(sweep, 0, edge={"tails": 2, "batch": 1})
    run_of(sweep, 1, edge={"tails": 2, "batch": 1})
    taken = {"accept_uncertified": True}  # its link was certified elsewhere
    sweep = msgspec.structs.replace(sweep, options=msgspec.structs.replace(sweep.options, **taken))
    assert len(sweep.measured()[0]) == 2
    run_of(sweep, 1, edge={"tails": 1, "batch": 8})
    found, missing = sweep.measured()
    assert set(found) == {sweep.configurations[1]}
    assert missing[sweep.configurations[0]] == (
        "measured with 2 tails at once at the edge, now 1 tail at once, up to 8 in a batch"
    )


def test_loss_with_a_kernel_that_loses(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "hosts_lack", lambda: "")
    assert plan(write(LOSSES), tmp_path / "out") == 0


def test_it_is_not_called_by_hand() -> None:
    with pytest.raises(UsageError, match=r"network_sweep\.sh calls it"):
        command.main(["--rates", "1mbit"])


# ------------------------------------------------------------------------------ what is there of it


def run_of(sweep: Sweep, number: int, **manifest: Any) -> Path:
    """A run folder as `splitbed run` leaves it for this configuration of the sweep."""
    options = msgspec.structs.replace(sweep.options, **sweep.configurations[number]._asdict())
    config = {**msgspec.to_builtins(options, enc_hook=str), "command": "splitbed run", "json": True}
    count = len(list(sweep.options.out.glob("*")))
    fields = {"config": config} | manifest
    folder = written(sweep.options.out / f"run-{count}", THREE, **fields)
    os.utime(folder / "manifest.json", (count, count))
    return folder


def test_a_run_of_before_an_option_was_there_counts(sweep: Sweep) -> None:
    options = msgspec.structs.replace(sweep.options, **sweep.configurations[0]._asdict())
    config = msgspec.to_builtins(options, enc_hook=str)
    for name in ("load", "late", "min_s", "until", "cpus", "cpu_quota", "idle_s"):
        del config[name]
    run_of(sweep, 0, config=config)
    run_of(sweep, 1, config=config | sweep.configurations[1]._asdict() | {"cpus": "0"})
    assert set(sweep.measured()[0]) == {sweep.configurations[0]}


@pytest.fixture
def sweep(write: Write, tmp_path: Path) -> Sweep:
    (tmp_path / "out").mkdir()
    return read_sweep(write(), tmp_path / "out")


STRICT = LinkProfile("strict", Direction(rate_bps=100_000_000), Direction())


def test_what_is_measured_is_not_measured_again(
    sweep: Sweep, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(sweep, 0)
    run_of(sweep, 3)
    found, missing = sweep.measured()
    assert set(found) == {sweep.configurations[0], sweep.configurations[3]}
    assert list(missing) == [c for c in sweep.configurations if c not in found]
    assert plan(write(), sweep.options.out) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 10
    assert "rate=1mbit,delay=5ms" in told.out
    assert "--cut @picture --codec jpeg:90 --link rate=1mbit " not in told.out
    assert "; 2 of them are measured" in told.err


def test_what_does_not_count_is_measured_again(sweep: Sweep) -> None:
    bad = msgspec.structs.replace(CERTIFICATE, profile=STRICT)
    run_of(sweep, 0, outcome="running")
    run_of(sweep, 1, certificate=bad)
    run_of(sweep, 2, certificate=None)
    (run_of(sweep, 3) / "device.frames.jsonl").unlink()
    (run_of(sweep, 4) / "manifest.json").write_text("{}")
    run_of(sweep, 5, frames_wanted=9)
    found, missing = sweep.measured()
    assert not found
    why = list(missing.values())[:6]
    assert why[0].startswith("ended without a word after 3 rows")
    assert why[1].startswith("left out for its link: uplink goodput 8 Mbit/s")
    assert why[2].startswith("left out for its link: ")
    assert why[3:5] == ["no frame was measured", "no run of it was begun"]
    assert why[5] == "complete"


def test_the_newest_run_that_counts(sweep: Sweep) -> None:
    run_of(sweep, 0)
    second = run_of(sweep, 0)
    run_of(sweep, 0, outcome="running")
    found, missing = sweep.measured()
    assert found[sweep.configurations[0]].folder == str(second)
    assert sweep.configurations[0] not in missing


def test_a_link_outside_its_tolerance_where_that_was_accepted(sweep: Sweep, write: Write) -> None:
    run_of(sweep, 1, certificate=msgspec.structs.replace(CERTIFICATE, profile=STRICT))
    accepting = write("frames => accept_uncertified = true\nframes")
    assert len(read_sweep(accepting, sweep.options.out).measured()[0]) == 1


def test_runs_of_another_sweep_are_not_taken_for_its_own(sweep: Sweep, write: Write) -> None:
    run_of(sweep, 0)
    other = read_sweep(write("frames = 3 => frames = 4"), sweep.options.out)
    assert not other.measured()[0]
    fewer = read_sweep(write(', "layer3 quantize:4+zstd:3" => '), sweep.options.out)
    assert len(fewer.measured()[0]) == 1


def test_the_figures_of_a_part_say_what_is_missing(
    sweep: Sweep, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(sweep, 0)
    with pytest.raises(RunIncomplete, match="11 of 12 configurations are not measured"):
        command.main(["figures", str(write()), str(sweep.options.out)])
    told = capsys.readouterr()
    assert told.out.startswith("link")
    assert "not measured: layer3 quantize:4+zstd:3 over rate=1mbit: no run of it" in told.err
    assert (sweep.options.out / "sweep.csv").is_file()
    assert (sweep.options.out / "sweep.svg").is_file()
