"""Which backend is taken where, and in whose words."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Callable, Iterator

import pyroute2
import pytest

from netem import backend, detection
from netem import interface as interfaces
from netem.backend import Choice, choose
from netem.detection import hosts_lack, interface_lacks
from netem.probe import ProbeClient
from netem.profiles import find_profile
from netem.relay import Relay
from splitbed.address import host_and_port
from splitbed.errors import LinkError, UsageError
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


class NoNamespace:
    """A process that may not make a namespace."""

    def __init__(self) -> None:
        raise LinkError("cannot make a network namespace")


@pytest.fixture
def without_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "Namespace", NoNamespace)


@pytest.mark.usefixtures("without_namespaces")
def test_where_no_interface_can_be_made_the_shaped_one_will_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def make(kind: str, name: str) -> None:
        asked.append(kind)

    monkeypatch.setattr(interfaces, "make", make)
    monkeypatch.setattr(interfaces, "remove", lambda name: None)
    assert interface_lacks(both=False) == ""
    assert asked == ["dummy", "ifb"]
    found = interface_lacks(both=True)
    assert found.startswith("this kernel has no ifb: load it with `modprobe -a ifb`")
    assert found.endswith(", or use --backend relay")


class Here:
    """Stands for a namespace, without the privilege that a real one takes."""

    path = "/dev/null"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        yield

    def close(self) -> None:
        pass


def test_without_the_package_it_says_so_and_takes_the_relay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    monkeypatch.setattr(detection, "Namespace", Here)
    for found in (hosts_lack(), interface_lacks(both=False), interface_lacks(both=True)):
        assert found.endswith("pip install 'splitbed[link]', or use --backend relay")
    assert choose("auto", PLAIN).kind == "relay"
    assert choose("auto", PLAIN, alone=True).kind == "relay"
    with pytest.raises(UsageError, match=r"splitbed\[link\]'$"):
        interfaces.names()


def test_a_kernel_without_veth_names_it(monkeypatch: pytest.MonkeyPatch) -> None:

    class Refusing:
        def __enter__(self) -> Refusing:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def link(self, *_: object, **__: object) -> None:
            raise pyroute2.NetlinkError(errno.EOPNOTSUPP, "Unknown device type")

    monkeypatch.setattr(pyroute2, "IPRoute", Refusing)
    monkeypatch.setattr(detection, "Namespace", Here)
    assert hosts_lack().startswith("this kernel has no veth: load it with `modprobe -a veth`")
    assert hosts_lack().endswith(", or use --backend relay")
    with pytest.raises(LinkError, match=r"no ifb: load it"):
        interfaces.make_ifb("x")
