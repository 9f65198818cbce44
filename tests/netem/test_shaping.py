"""One interface put on, changed, shown, taken away; and what a crash leaves."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netem import detection, records, shaping
from netem import interface as interfaces
from netem.detection import interface_lacks
from netem.kernel_link import End, KernelLink, two_hosts
from netem.namespace import Namespace
from netem.probe import ProbeClient
from netem.qdisc import BUCKET
from netem.responder import Responder
from netem.shaping import Asked, Shaping
from netem.transfer import TransferPlan
from splitbed.address import host_and_port
from splitbed.errors import LinkError
from splitbed.link import BurstLoss, Change, Direction, LinkProfile, Step, Trace
from tests.netem.conftest import EDGE, WIRE

MS = 1_000_000
CLI = (sys.executable, "-m", "splitbed.cli", "link")
Hosts = tuple[Namespace, Namespace]
_FEW = 40
"""Packets that fit into any queue."""


def rtt_ms(device: Namespace, edge: Namespace) -> float:
    with edge.entered():
        responder = Responder(f"{EDGE}:0")
    try:
        with device.entered(), ProbeClient(host_and_port(responder.address)) as client:
            return sorted(client.round_trips(15, 10))[7][0] / 1e6
    finally:
        responder.close()


def is_bare(namespace: Namespace) -> bool:
    with namespace.entered():
        own = interfaces.find(WIRE)
        found = interfaces.queueing(own)
        return (
            not any(queue.is_ours or queue.kind == "ingress" for queue in found)
            and not any(shaping.is_ifb(name) for name in interfaces.names())
            and records.read(WIRE) is None
            and interfaces.offloads(own)["tx-tcp-segmentation"]
        )


@contextmanager
def applied(namespace: Namespace, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`splitbed link apply` in a namespace, when it says that it stands."""
    with namespace.entered():
        process = subprocess.Popen(
            [*CLI, "apply", WIRE, *arguments], stderr=subprocess.PIPE, text=True
        )
    assert process.stderr is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def words_until(process: subprocess.Popen[str], end: str) -> str:
    assert process.stderr is not None
    words = ""
    while end not in words:
        line = process.stderr.readline()
        assert line, words
        words += line
    return words


def run(namespace: Namespace, *arguments: str) -> tuple[int, str, str]:
    with namespace.entered():
        done = subprocess.run([*CLI, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_what_is_sent_is_delayed_and_taken_away_again(hosts: Hosts) -> None:
    device, edge = hosts
    assert is_bare(device)
    with device.entered():
        held = Shaping(WIRE, Asked(Direction(delay_ns=20 * MS)))
        assert not any(interfaces.offloads(interfaces.find(WIRE)).values())
    assert 20 <= rtt_ms(device, edge) < 24
    with device.entered():
        held.change(Asked(Direction(delay_ns=50 * MS)))
    assert 50 <= rtt_ms(device, edge) < 54
    with device.entered():
        held.close()
        held.close()
    assert rtt_ms(device, edge) < 5
    assert is_bare(device)


def test_both_directions_at_one_end(hosts: Hosts) -> None:
    device, edge = hosts
    with edge.entered():
        held = Shaping(WIRE, Asked(Direction(delay_ns=10 * MS), Direction(delay_ns=30 * MS)))
        found = shaping.show(WIRE)
        assert [queue.kind for queue in found.sends] == ["tbf", "tbf", "netem"]
        assert [queue.kind for queue in found.receives] == ["tbf", "tbf", "netem"]
    assert 40 <= rtt_ms(device, edge) < 46
    with edge.entered():
        held.close()
    assert is_bare(edge)


def counted() -> tuple[int, int]:
    """Packets and bytes that the bucket of this network namespace's wire counted."""
    with interfaces.routing("count") as route:
        for queue in route.get_qdiscs(interfaces.find(WIRE).index):
            if queue["handle"] == BUCKET:
                basic = queue.get_attr("TCA_STATS2").get_attr("TCA_STATS_BASIC")
                return int(basic["packets"]), int(basic["bytes"])
    raise AssertionError("no bucket")


@pytest.mark.parametrize("payload_bytes", [22, 222, 722, 1472])
def test_a_rate_counts_ip_bytes_of_small_packets_too(hosts: Hosts, payload_bytes: int) -> None:
    device, _ = hosts
    with device.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"find the way", (EDGE, 9))
        with contextlib.closing(Shaping(WIRE, Asked(Direction(rate_bps=100_000_000)))):
            for _ in range(5):
                time.sleep(0.2)
                before = counted()
                for _ in range(_FEW):
                    sock.sendto(bytes(payload_bytes), (EDGE, 9))
                time.sleep(0.2)
                packets, size = (after - old for after, old in zip(counted(), before, strict=True))
                if packets == _FEW:  # else the kernel's IPv6 looked for neighbours meanwhile
                    break
    assert packets == _FEW
    # The rate in the kernel is that of full packets with their header.
    assert size / _FEW * 1500 / 1514 == pytest.approx(payload_bytes + 28, rel=0.01, abs=1)


def test_a_segment_passes_as_packets(hosts: Hosts) -> None:
    device, edge = hosts
    with edge.entered(), socket.create_server((EDGE, 0)) as listener:
        where = listener.getsockname()
        with (
            device.entered(),
            contextlib.closing(
                Shaping(WIRE, Asked(Direction(rate_bps=100_000_000), Direction(delay_ns=5 * MS)))
            ),
        ):
            with socket.create_connection(where) as sock, listener.accept()[0] as other:
                _, before = counted()
                sock.sendall(bytes(144_800))
                assert len(other.recv(144_800, socket.MSG_WAITALL)) == 144_800
                size = counted()[1] - before
            found = shaping.show(WIRE)
            assert found.receives
    assert 100 * 1514 <= size < 1.02 * 100 * 1514


def test_everything_that_can_be_asked_for_is_accepted_and_there(hosts: Hosts) -> None:
    device, _ = hosts
    asked = Direction(
        rate_bps=10_000_000,
        delay_ns=20 * MS,
        jitter_ns=3 * MS,
        jitter_distribution="paretonormal",
        jitter_correlation_pct=25,
        burst_loss=BurstLoss(1, 25, 90, 0.5),
        duplicate_pct=0.5,
        reorder_pct=2,
        corrupt_pct=0.25,
        queue_ns=100 * MS,
    )
    with device.entered():
        held = Shaping(WIRE, Asked(asked))
        told = subprocess.run(["tc", "qdisc", "show", "dev", WIRE], capture_output=True, text=True)
        held.close()
    for words in (
        *("rate 10093Kbit", "delay 20ms", " 3ms 25%", "loss gemodel p 1% r 25% 1-h 90% 1-k 0.5%"),
        *("duplicate 0.5%", "reorder 2%", "corrupt 0.25%", "limit 108 "),
    ):
        assert words in told.stdout


def test_what_a_killed_process_left_is_found_named_and_replaced(hosts: Hosts) -> None:
    _, edge = hosts
    with applied(edge, "--profile", "rate=5mbit,delay=5ms", "--both") as first:
        words_until(first, "Ctrl-C")
        assert "running" in run(edge, "show")[1]
        code, _, words = run(edge, "clear")
        assert (code, words.count("\n")) == (4, 1)
        assert f"process {first.pid}, which is running" in words
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert "gone: `splitbed link clear`" in run(edge, "show")[1]
        with applied(edge, "--profile", "rate=7mbit") as second:
            found = words_until(second, "Ctrl-C")
            assert f"stale link was found and taken away: 'rate=5mbit,delay=5ms' on {WIRE}" in found
            assert f"of process {first.pid}" in found
            second.send_signal(signal.SIGKILL)
            second.wait()
    code, _, words = run(edge, "clear")
    assert code == 0
    assert "taken away: 'rate=7mbit'" in words
    assert is_bare(edge)
    assert "nothing to clear" in run(edge, "clear")[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_takes_it_away(hosts: Hosts, number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(
            "the tests run where this signal is ignored (nohup), and so does what they start"
        )
    _, edge = hosts
    with applied(edge, "--profile", "rate=5mbit", "--both") as process:
        words_until(process, "Ctrl-C")
        process.send_signal(number)
        assert process.wait(10) == 0
    assert is_bare(edge)


def test_kept_until_cleared_and_changed_from_outside(hosts: Hosts) -> None:
    device, edge = hosts
    assert (
        run(device, "apply", WIRE, "--profile", "delay=10ms", "--side", "device", "--keep")[0] == 0
    )
    assert 10 <= rtt_ms(device, edge) < 14
    assert run(device, "change", WIRE, "--profile", "delay=30ms", "--side", "device")[0] == 0
    assert 30 <= rtt_ms(device, edge) < 34
    code, _, words = run(device, "change", WIRE, "--profile", "delay=1ms", "--both")
    assert (code, words.count("\n")) == (4, 1)
    assert "one direction only" in words
    assert run(device, "clear", WIRE)[0] == 0
    assert is_bare(device)
    assert "not shaped by splitbed" in run(device, "change", WIRE, "--profile", "delay=1ms")[2]


@pytest.mark.parametrize(
    ("stranger", "both", "word"),
    [
        (
            "qdisc add dev wire root pfifo limit 5",
            (),
            "'pfifo' 8001: (`tc qdisc del dev",
        ),
        ("qdisc add dev wire root handle 7: netem delay 1ms", (), "'netem' 7:"),
        ("qdisc add dev wire ingress", ("--both",), "`tc qdisc del dev wire ingress`"),
        ("qdisc add dev wire clsact", ("--both",), "`tc qdisc del dev wire clsact`"),
    ],
)
def test_what_somebody_else_put_there_is_left_alone(
    hosts: Hosts, stranger: str, both: tuple[str, ...], word: str
) -> None:
    _, edge = hosts
    with edge.entered():
        subprocess.run(["tc", *stranger.split()], check=True)
        before = [q.handle for q in interfaces.queueing(interfaces.find(WIRE))]
    code, _, words = run(edge, "apply", WIRE, "--profile", "lte", *both)
    assert (code, words.count("\n")) == (4, 1)
    assert f"{WIRE} is shaped already, by somebody else's" in words
    assert word in words
    assert run(edge, "clear")[0] == 0
    with edge.entered():
        assert [q.handle for q in interfaces.queueing(interfaces.find(WIRE))] == before


def test_mistakes_are_told_in_one_sentence(hosts: Hosts) -> None:
    _, edge = hosts
    for arguments, code, word in (
        (
            ("apply", "nix", "--profile", "lte"),
            4,
            "no interface 'nix' here (there are: lo",
        ),
        (("apply", WIRE, "--profile", "none"), 4, "asks for nothing"),
        (("apply", WIRE, "--profile", "rate=1mbit,loss=101%"), 2, "loss"),
        (("show", "nix"), 4, "there is no interface 'nix'"),
    ):
        found, _, words = run(edge, *arguments)
        assert (found, words.count("\n")) == (code, 1), words
        assert word in words
    assert is_bare(edge)


def test_without_the_privilege_it_says_so(hosts: Hosts) -> None:
    _, edge = hosts
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    with edge.entered():
        done = subprocess.run(
            [*bare, *CLI, "apply", WIRE, "--profile", "lte"], capture_output=True, text=True
        )
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "takes root" in done.stderr
    assert "--backend relay" in done.stderr


@pytest.mark.parametrize("both", [(), ("--both",)])
def test_without_the_privilege_what_is_there_stays(hosts: Hosts, both: tuple[str, ...]) -> None:
    _, edge = hosts
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert run(edge, "apply", WIRE, "--profile", "rate=5mbit", "--keep", *both)[0] == 0
    for arguments in (("clear",), ("change", WIRE, "--profile", "rate=6mbit")):
        with edge.entered():
            done = subprocess.run([*bare, *CLI, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (4, 1), done.stderr
        assert "takes root" in done.stderr
        assert "relay" not in done.stderr
    assert run(edge, "clear")[0] == 0
    assert is_bare(edge)


def test_an_interface_that_goes_while_it_is_shaped(hosts: Hosts) -> None:
    _, edge = hosts
    with applied(edge, "--profile", "rate=5mbit", "--both") as process:
        words_until(process, "Ctrl-C")
        with edge.entered():
            interfaces.remove(WIRE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    with edge.entered():
        assert not any(shaping.is_ifb(name) for name in interfaces.names())
        assert records.read(WIRE) is None


def replayed(edge: Namespace) -> KernelLink:
    """A link at the edge alone, with a replay that goes on."""
    profile = LinkProfile("p", Direction(5_000_000), Direction(6_000_000))
    trace = Trace("t", (Step(0, up=Change(delay_ns=MS)),), 10**12)
    link = KernelLink((End(WIRE, "down", both=True, place=edge.entered),), profile, trace)
    link.replay(True)
    time.sleep(0.1)
    return link


def test_a_link_whose_ifb_is_gone_is_closed_in_the_middle_of_a_replay(hosts: Hosts) -> None:
    _, edge = hosts
    link = replayed(edge)
    with edge.entered():
        interfaces.remove(shaping.ifb_name(interfaces.find(WIRE)))
    link.close()
    link.close()
    assert is_bare(edge)


def test_what_was_cleared_by_force_stays_away(hosts: Hosts) -> None:
    _, edge = hosts
    link = replayed(edge)
    assert run(edge, "clear", "--force")[0] == 0
    link.close()
    assert is_bare(edge)


def test_who_was_cleared_by_force_leaves_the_next_one_alone(hosts: Hosts) -> None:
    _, edge = hosts
    link = replayed(edge)
    assert run(edge, "clear", "--force")[0] == 0
    with applied(edge, "--profile", "rate=7mbit", "--both") as process:
        words_until(process, "Ctrl-C")
        link.close()
        with edge.entered():
            found = shaping.show(WIRE)
            assert interfaces.is_redirected(interfaces.find(WIRE), begun=False)
        assert (len(found.sends), len(found.receives)) == (3, 3)
        assert found.record is not None
        assert found.record.pid == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert is_bare(edge)


def test_one_end_that_cannot_be_closed_keeps_nobody_else(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, edge = hosts
    profile = LinkProfile("p", Direction(5_000_000), Direction(6_000_000))
    link = KernelLink(two_hosts(device, edge, WIRE), profile, recorded=False)
    close, seen = Shaping.close, []

    def failing(self: Shaping) -> None:
        close(self)
        seen.append(self)
        raise LinkError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Shaping, "close", failing)
        with pytest.raises(LinkError):
            link.close()
    assert len(seen) == 2
    assert is_bare(device)
    assert is_bare(edge)


@pytest.mark.parametrize("again", [("clear",), ("apply", WIRE, "--profile", "lte", "--both")])
def test_a_redirection_that_was_only_begun_is_ours(hosts: Hosts, again: tuple[str, ...]) -> None:
    """As a process leaves it that is killed between the two requests of `redirect`."""
    _, edge = hosts
    with edge.entered():
        interfaces.make_ifb(shaping.ifb_name(interfaces.find(WIRE)))
        subprocess.run(["tc", "qdisc", "add", "dev", WIRE, "ingress"], check=True)
    if again[0] == "apply":
        with applied(edge, *again[2:]) as process:
            words_until(process, "Ctrl-C")
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    else:
        assert run(edge, *again)[0] == 0
    assert is_bare(edge)
    with edge.entered():
        assert not any(q.kind == "ingress" for q in interfaces.queueing(interfaces.find(WIRE)))


def test_what_a_killed_attempt_left_goes(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    _, edge = hosts

    def none() -> None:
        raise LinkError("cannot make a network namespace")

    monkeypatch.setattr(detection, "Namespace", none)
    with edge.entered():
        before = interfaces.names()
        for both in (False, True):
            for name in ("splitbed-try", *["splitbed-try2"] * both):
                interfaces.make_ifb(name)
            assert interface_lacks(both) == ""
            assert interfaces.names() == before
        interfaces.make_ifb("splitbed-try2")
    assert "taken away: splitbed-try2, left by an attempt" in run(edge, "clear")[2]
    with edge.entered():
        assert interfaces.names() == before


def test_a_rate_raised_from_nothing_wakes_the_queue(hosts: Hosts) -> None:
    """A token bucket sleeps until the old rate lets a packet pass: at none, for an hour."""
    device, edge = hosts
    with edge.entered():
        responder = Responder(f"{EDGE}:0")
    with device.entered():
        held = Shaping(WIRE, Asked(Direction(rate_bps=50_000_000)))
        with ProbeClient(host_and_port(responder.address)) as client:
            client.round_trips(3, 1)
            held.change_rates(0, None)
            start = time.perf_counter()

            def later() -> None:
                time.sleep(0.5)
                with device.entered():
                    held.change_rates(50_000_000, None)

            thread = threading.Thread(target=later)
            thread.start()
            client.upload(TransferPlan(10**9, 10**8, 100_000))
            thread.join()
            assert 0.4 < time.perf_counter() - start < 1.5
        held.close()
    responder.close()
