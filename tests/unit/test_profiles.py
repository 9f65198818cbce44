"""Links by name: the house's own, those of a file, and how they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from netem.commands.profiles import list_profiles
from netem.profiles import describe, find_profile, needs_kernel, profiles
from netem.relay import Relay
from splitbed.errors import LinkError, UsageError
from splitbed.link import BurstLoss, Direction, LinkProfile

MS = 1_000_000
MBIT = 1_000_000


@pytest.mark.parametrize("name", profiles())
def test_named_profile_says_where_it_comes_from(name: str) -> None:
    profile = find_profile(name)
    assert profile.name == name
    assert len(profile.source) > 20
    assert profile.is_shaped == (name != "none")
    for direction in (profile.up, profile.down):
        assert (direction.rate_bps is not None) == (name != "none")
    assert describe(profile)


@pytest.mark.parametrize("name", profiles())
def test_named_profile_survives_json(name: str) -> None:
    profile = find_profile(name)
    assert msgspec.json.decode(msgspec.json.encode(profile), type=LinkProfile) == profile


def test_profiles_of_the_specification_have_its_rates() -> None:
    # TS 22.261 table 7.1-1: experienced data rates, downlink / uplink in Mbit/s.
    rates = {
        "5g-urban-macro": (50, 25),
        "5g-dense-urban": (300, 50),
        "5g-crowd": (25, 50),
        "5g-indoor": (1000, 500),
    }
    for name, (down, up) in rates.items():
        profile = find_profile(name)
        assert (profile.down.rate_bps, profile.up.rate_bps) == (down * MBIT, up * MBIT)


def test_profiles_of_5qi_have_its_budget_and_error_rate() -> None:
    # TS 23.501 table 5.7.4-1: packet delay budget in ms, power of ten of the packet error rate.
    characteristics = {
        2: (150, -3),
        3: (50, -3),
        6: (300, -6),
        7: (100, -3),
        80: (10, -6),
        82: (10, -4),
        84: (30, -5),
        85: (5, -5),
        87: (5, -3),
        89: (15, -4),
        90: (20, -4),
    }
    assert {f"5qi-{number}" for number in characteristics} == {
        name for name in profiles() if name.startswith("5qi-")
    }
    for number, (budget_ms, power) in characteristics.items():
        profile = find_profile(f"5qi-{number}")
        assert f"budget {budget_ms} ms" in profile.source
        assert f"error rate 10^{power}" in profile.source
        for direction in (profile.up, profile.down):
            assert direction.delay_ns == budget_ms * MS
            # One packet in a million is left to the relay.
            assert direction.loss_pct == (0 if power == -6 else pytest.approx(100 * 10**power))


@pytest.mark.parametrize(
    ("name", "up_mbps", "down_mbps", "rtt_ms"),
    [
        ("lte", 7.6, 29.5, 21.0),
        ("5g-sub6", 14.7, 129.9, 18.85),
        ("5g-mmwave", 30.8, 618.4, None),
        ("satellite-leo", 13.89, 97.23, 45.0),
        ("satellite-geo", 2.43, 19.73, 724.0),
        ("wifi-5", 200.0, 200.0, 3.0),
        ("wifi-5-far", 100.0, 100.0, None),
    ],
)
def test_speed_test_over_a_surveys_profile_shows_the_surveys_figures(
    name: str, up_mbps: float, down_mbps: float, rtt_ms: float | None
) -> None:
    profile = find_profile(name)
    assert profile.up.payload_bps == pytest.approx(up_mbps * MBIT, rel=0.005)
    assert profile.down.payload_bps == pytest.approx(down_mbps * MBIT, rel=0.005)
    if rtt_ms is not None:
        assert profile.rtt_ns == pytest.approx(rtt_ms * MS, rel=0.005)


@pytest.mark.parametrize("name", profiles())
def test_kernel_is_needed_where_the_relay_refuses(name: str) -> None:
    profile = find_profile(name)
    if needs_kernel(profile):
        with pytest.raises(LinkError, match="use the kernel backend"):
            Relay(profile, "127.0.0.1:0", "127.0.0.1:1")
        assert not needs_kernel(find_profile(f"{name},loss=0%"))
    else:
        Relay(profile, "127.0.0.1:0", "127.0.0.1:1").close()


def test_cell_edge_without_loss_is_otherwise_the_same() -> None:
    edge, lossless = find_profile("cell-edge,loss=0%"), find_profile("cell-edge-lossless")
    assert (edge.up, edge.down) == (lossless.up, lossless.down)
    bursts = find_profile("cell-edge").up.burst_loss
    assert bursts is not None
    assert 100 / bursts.to_good_pct == 4, "packets in a burst, as its source says"


@pytest.mark.parametrize(
    ("text", "meant"),
    [("5g-urban", "5g-urban-macro"), ("lte_verizon", "lte-verizon"), ("nne", "none")],
)
@pytest.mark.parametrize("rest", ["", ",up.loss=1%"])
def test_unknown_name_suggests_the_nearest(text: str, meant: str, rest: str) -> None:
    with pytest.raises(UsageError, match=f"unknown link profile '{text}'; did you mean '{meant}'"):
        find_profile(text + rest)


def test_unknown_name_tells_of_the_list_and_the_written_form() -> None:
    with pytest.raises(UsageError) as caught:
        find_profile("???")
    sentence = str(caught.value)
    assert "did you mean" not in sentence
    assert "rate=50mbit,delay=20ms" in sentence
    assert "splitbed link profiles lists all" in sentence


OWN = """
[slow]
source = "measured in the cellar"
rate_tolerance_pct = 5
up = { rate_bps = 2_000_000, delay_ns = 30_000_000, loss_pct = 0.5 }

[slow.down]
rate_bps = 8_000_000
delay_ns = 30_000_000
burst_loss = { to_bad_pct = 1, to_good_pct = 25 }

[plain]
up = { delay_ns = 1_000_000, jitter_ns = 3, jitter_distribution = "pareto" }
down = { rate_bps = 5_000_000 }
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


def test_profile_of_a_file(own: Path) -> None:
    profile = find_profile(f"{own}:slow")
    assert profile == LinkProfile(
        f"{own}:slow",
        Direction(2 * MBIT, 30 * MS, loss_pct=0.5),
        Direction(8 * MBIT, 30 * MS, burst_loss=BurstLoss(1, 25)),
        source="measured in the cellar",
        rate_tolerance_pct=5,
    )


def test_profile_of_a_file_is_changed_by_what_follows(own: Path) -> None:
    profile = find_profile(f"{own}:slow,loss=0%,down=1mbit")
    assert profile.name == f"{own}:slow,loss=0%,down=1mbit"
    assert profile.up == Direction(2 * MBIT, 30 * MS)
    assert profile.down == Direction(1 * MBIT, 30 * MS)
    assert profile.rate_tolerance_pct == 5
    profile = find_profile(f"{own}:plain,jitter=1ms")
    assert profile.up == Direction(None, MS, MS), "jitter is one thing with its shape"
    assert profile.source == "changed by jitter=1ms"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (":slo", "has no link profile 'slo': write {own}:slow (it has slow, plain)"),
        (":", "has link profiles, of which one must be named: write {own}:slow"),
        ("", "has link profiles, of which one must be named: write {own}:slow"),
    ],
)
def test_name_that_a_file_does_not_have(own: Path, name: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_profile(f"{own}{name}")
    assert str(caught.value).startswith(f"{own} {sentence.format(own=own)}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[a", "{own} is not valid TOML"),
        ("up = 3", "'up' in {own} is no profile: write [up] and its figures"),
        ("[a]\nuplink = {}", "unknown key 'uplink' in [a] of {own}"),
        (
            "[a]\ndown = {}\nup = { dely_ns = 3 }",
            "unknown key 'dely_ns' in [a.up] of {own}; did you mean 'delay_ns'?",
        ),
        (
            "[a]\nup = {}\ndown = { burst_loss = { p = 3 } }",
            "unknown key 'p' in [a.down.burst_loss] of {own}",
        ),
        ("[a]\nup = {}", "[a] of {own}: object missing required field `down`"),
        ("[a]\nname = 'b'\nup = {}\ndown = {}", "unknown key 'name' in [a] of {own}"),
        ("[a]\ndown = {}\nup = { rate_bps = 5 }", "[a] of {own}: expected `int` >= 1000 - at `up"),
        ("[a]\ndown = {}\nup = 'fast'", "[a] of {own}: expected `object`, got `str` - at `up"),
        ("[a]\ndown = {}\nup = { reorder_pct = 5 }", "[a] of {own}: reorder_pct needs a delay"),
        (
            "[a]\nup = {}\n[a.down]\nloss_pct = 1\nburst_loss = {to_bad_pct = 1, to_good_pct = 9}",
            "[a] of {own}: loss is either random (loss_pct) or in bursts (burst_loss), not both",
        ),
    ],
)
def test_file_that_is_wrong_is_refused_with_the_place(own: Path, text: str, sentence: str) -> None:
    own.write_text(text)
    with pytest.raises(UsageError) as caught:
        find_profile(f"{own}:a")
    assert str(caught.value).startswith(sentence.format(own=own))
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"cannot read nowhere\.toml: No such file"):
        find_profile("nowhere.toml:a,rate=1mbit")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("none", "not shaped"),
        ("rate=10mbit,delay=5ms", "each way 10 Mbit/s 5 ms"),
        (
            "up=10mbit,delay=5ms,jitter=1ms,loss=0.5%",
            "up 10 Mbit/s 5 ms +-1 ms 0.5 % loss, down full rate 5 ms +-1 ms 0.5 % loss",
        ),
        (
            "delay=5ms,jitter=1ms/pareto/25%,duplicate=1%,reorder=2%,corrupt=3%,queue=40ms",
            "each way full rate 5 ms +-1 ms (pareto, 25 % correlated) 1 % duplicated 2 % reordered "
            "3 % corrupted queue 40 ms",
        ),
        (
            "rate=512kbit,burst=1%/25%",
            "each way 0.512 Mbit/s 0 ms 3.85 % loss in bursts (begun 1 %, ended 25 %)",
        ),
        (
            "burst=1%/24%/50%/0.5%",
            "each way full rate 0 ms 2.48 % loss in bursts (begun 1 %, ended 24 %, losing 50 % "
            "within, 0.5 % outside)",
        ),
    ],
)
def test_description_for_people(text: str, line: str) -> None:
    assert describe(find_profile(text)) == line


def test_list_fits_the_screen_and_has_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_profiles([]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) < 80
    words = " ".join(out.split())
    for name, profile in profiles().items():
        assert f"\n{name} " in out
        assert profile.source in words
        line = next(line for line in out.splitlines() if line.startswith(f"{name} "))
        assert line.split()[-1] == ("kernel" if needs_kernel(profile) else "any")


def test_list_of_what_is_asked(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    assert list_profiles(["lte", f"{own}:plain,jitter=1ms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "lte-verizon" not in lines
    assert lines[2].split() == ["lte", "7.87", "10.5", "30.6", "10.5", "any"]
    assert lines[-4:] == [
        f"{own}:plain,jitter=1ms",
        f"{'':20}     full        1         5        0   any",
        "    each way +-1 ms",
        "    changed by jitter=1ms",
    ]


@pytest.mark.parametrize(
    ("text", "backend", "extras"),
    [
        ("down.loss=1%", "kernel", "down 1 % loss"),
        ("up.corrupt=1%,queue=9ms", "kernel", "up 1 % corrupted queue 9 ms, down queue 9 ms"),
        ("up.jitter=1ms", "any", "up +-1 ms"),
    ],
)
def test_list_says_what_is_asked_besides_rate_and_delay(
    capsys: pytest.CaptureFixture[str], text: str, backend: str, extras: str
) -> None:
    assert list_profiles([text]) == 0
    *_, figures, shown, source = capsys.readouterr().out.splitlines()
    assert (figures.split()[-1], shown, source) == (backend, f"    {extras}", "    written out")


def test_list_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_profiles(["--json"]) == 0
    rows: list[dict[str, Any]] = msgspec.json.decode(capsys.readouterr().out)
    extra = ("description", "needs_kernel", "written")
    for row, profile in zip(rows, profiles().values(), strict=True):
        bare = {key: value for key, value in row.items() if key not in extra}
        assert msgspec.convert(bare, LinkProfile) == profile
        assert row["description"] == describe(profile)
        assert row["needs_kernel"] == needs_kernel(profile)
        again = find_profile(row["written"])
        assert (again.up, again.down) == (profile.up, profile.down)
