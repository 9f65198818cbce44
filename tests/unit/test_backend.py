"""Which backend is taken where, and in whose words."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import pytest

from netem import backend
from netem import interface as interfaces
from netem.backend import Choice, choose
from netem.detection import hosts_lack, interface_lacks
from netem.probe import ProbeClient
from netem.profiles import find_profile
from netem.relay import Relay
from splitbed.address import host_and_port
from splitbed.errors import LinkError
from splitbed.link import Change, Direction, LinkProfile, Step, Trace

PLAIN = LinkProfile("plain", Direction(1_000_000), Direction())
LOSSY = LinkProfile("lossy", Direction(loss_pct=1), Direction(corrupt_pct=1))
NONE = LinkProfile("none", Direction(), Direction())
TRACE = Trace("t", (Step(0, Change(rate_bps=1)),), 1)
LACK = "this kernel has no sch_netem: load it, or use --backend relay"


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hosts_lack", "interface_lacks"):
        monkeypatch.setattr(backend, name, lambda both=True: LACK)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hosts_lack", "interface_lacks"):
        monkeypatch.setattr(backend, name, lambda both=True: "")


@pytest.mark.usefixtures("lacking")
def test_without_a_kernel_it_is_the_relay_and_says_why() -> None:
    assert choose("auto", PLAIN) == Choice("relay", "this kernel has no sch_netem: load it")
    assert choose("relay", PLAIN).kind == "relay"
    with pytest.raises(LinkError, match=r"no sch_netem: load it, or use --backend relay"):
        choose("kernel", PLAIN)
    with pytest.raises(LinkError, match=r"'lossy' asks for corruption and loss, which only the"):
        choose("auto", LOSSY)


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.usefixtures("lacking")
def test_a_relay_s_queue_is_not_left_out_in_silence(way: str) -> None:
    asked = find_profile(f"rate=1mbit,{way}.queue=50ms")
    note = "queue left out: a relay drops nothing"
    assert choose("auto", asked).why == f"this kernel has no sch_netem: load it; {note}"
    assert choose("relay", asked).why == f"as asked for; {note}"
    relay = Relay(asked, "127.0.0.1:0", "127.0.0.1:1")
    with contextlib.closing(relay), ProbeClient(host_and_port(relay.address)) as client:
        assert client.facts().settings == {"queue": "left out: a relay drops nothing"}


@pytest.mark.usefixtures("able")
def test_with_a_kernel_it_is_the_kernel() -> None:
    assert choose("auto", PLAIN) == Choice("kernel", "netem is there")
    assert choose("auto", LOSSY).kind == "kernel"
    assert choose("auto", find_profile("queue=50ms,rate=1mbit")).why == "netem is there"
    assert choose("relay", PLAIN).kind == "relay"
    assert choose("kernel", NONE).kind == "kernel"


@pytest.mark.usefixtures("able")
def test_where_nothing_is_asked_nothing_is_made() -> None:
    assert choose("auto", NONE).kind == "direct"
    assert choose("relay", NONE).kind == "direct"
    assert choose("auto", NONE, TRACE).kind == "kernel"
    assert choose("relay", NONE, TRACE).kind == "relay"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks a Linux kernel")
@pytest.mark.parametrize(
    "asked", [hosts_lack, lambda: interface_lacks(True), lambda: interface_lacks(False)]
)
def test_this_kernel_answers_in_one_clause(asked: Callable[[], str]) -> None:
    found = asked()
    assert "\n" not in found
    assert found == "" or "--backend relay" in found
    assert not [name for name in interfaces.names() if name.startswith("splitbed")]
