"""`python -m netem` as people and scripts meet it: as processes."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from netem.probe import ProbeClient
from netem.profiles import profiles
from splitbed.address import host_and_port
from splitbed.certificate import LinkCertificate, LinkMeasurement
from splitbed.link import Direction, LinkCounters, LinkProfile
from splitbed.process import PARENT
from tests.unit.edges import Node, ends_with_its_parent, finished, free_port

NETEM = ("-m", "netem")
LISTEN = ("--listen", "127.0.0.1:0")
RELAY = (*NETEM, "relay", "--target", "127.0.0.1:1", *LISTEN)
SERVERS = {
    "relay": (*RELAY, "--profile", "rate=20mbit,delay=3ms"),
    "responder": (*NETEM, "responder", *LISTEN),
}
NONE = ("relay", "--target", "a:1", "--profile", "none")
both_servers = pytest.mark.parametrize("arguments", SERVERS.values(), ids=SERVERS)


@pytest.fixture(scope="module")
def relay() -> Iterator[Node]:
    """A running relay of 20 Mbit/s and 3 ms each way."""
    with Node(*SERVERS["relay"]) as node:
        yield node


@both_servers
def test_ready_line_and_sigterm(arguments: tuple[str, ...]) -> None:
    with Node(*arguments) as node:
        host, port = host_and_port(node.address)
        assert host == "127.0.0.1"
        assert port > 0
        assert set(node.ready) == {"address", "profile", "priority"}
        with ProbeClient((host, port)) as client:
            assert client.round_trips(3, 1)
            # A client that is connected does not hold the process up.
            assert node.terminate(within_s=3) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_relay_ends_while_bytes_are_under_way(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        port = target.getsockname()[1]
        flags = ("--target", f"127.0.0.1:{port}", "--profile", "rate=1mbit,delay=20ms", *LISTEN)
        with (
            Node(*NETEM, "relay", *flags) as node,
            socket.create_connection(host_and_port(node.address)) as client,
        ):
            client.sendall(bytes(100_000))
            server, _ = target.accept()
            with server:
                server.settimeout(5)
                assert server.recv(1000)
                node.process.send_signal(number)
                assert node.process.wait(3) == 0
                with contextlib.suppress(ConnectionError):
                    while server.recv(1 << 20):
                        pass


@both_servers
def test_ends_with_its_parent(arguments: tuple[str, ...]) -> None:
    assert ends_with_its_parent(*arguments, within_s=3)


def test_ends_at_once_where_the_parent_is_gone_already() -> None:
    nobody = str(2**22 + 1)  # no process of Linux has this number
    assert finished(*SERVERS["responder"], env={PARENT: nobody}) == (0, "", "")


def test_a_relay_takes_a_profile_as_json() -> None:
    profile = LinkProfile("mine", Direction(delay_ns=5_000_000), Direction())
    text = msgspec.json.encode(profile).decode()
    with Node(*RELAY, "--profile-json", text) as node:
        assert node.ready["profile"] == "mine"
        with ProbeClient(host_and_port(node.address)) as client:
            assert min(client.round_trips(3, 1))[0] >= 5_000_000
            assert client.counters() == LinkCounters(0, 0, 0)


def test_a_relay_replays_a_trace_when_it_is_asked_to(tmp_path: Path) -> None:
    file = tmp_path / "steps.csv"
    file.write_text("second,up_delay_ms\n0,60\n1\n")
    flags = ("--profile", "rate=20mbit", "--trace", str(file))
    with Node(*RELAY, *flags) as node, ProbeClient(host_and_port(node.address)) as client:
        assert client.facts().trace == "steps.csv"
        assert min(client.round_trips(3, 1))[0] < 60_000_000
        assert client.replay(True) is None
        assert min(client.round_trips(3, 1))[0] >= 60_000_000
        assert client.replay(False) is not None
        assert min(client.round_trips(3, 1))[0] < 60_000_000
    with (
        Node(*RELAY, *flags, "--begin") as node,
        ProbeClient(host_and_port(node.address)) as client,
    ):
        assert min(client.round_trips(3, 1))[0] >= 60_000_000


def test_a_relay_refuses_loss_in_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "steps.csv"
    file.write_text("second,up_loss_pct\n0,1\n1\n")
    code, out, err = finished(*RELAY, "--profile", "rate=20mbit", "--trace", str(file))
    assert (code, out) == (4, "")
    assert err.count("\n") == 1
    assert "the trace steps.csv asks for loss on the uplink from second 0 on" in err


def test_a_relay_is_configured_by_a_file(tmp_path: Path) -> None:
    file = tmp_path / "bed.toml"
    file.write_text(
        '[relay]\ntarget = "127.0.0.1:1"\nlisten = "127.0.0.1:0"\nprofile = "lte-verizon"\n'
    )
    with Node(*NETEM, "relay", "--config", str(file)) as node:
        assert node.ready["profile"] == "lte-verizon"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("relay",), "needs --target"),
        (("relay", "--target", "127.0.0.1:1"), "needs --profile"),
        (("relay", "--target", "nowhere", "--profile", "none"), "'nowhere' is no address"),
        (("relay", "--target", "a:1", "--profile", "lte-verizo"), "did you mean 'lte-verizon'"),
        (("relay", "--target", "a:1", "--profile", "rate=fast"), "'rate=fast' needs a number"),
        (("relay", "--target", "a:1", "--profile-json", "{"), "--profile-json: "),
        (("relay", "--target", "a:1", "--profile-json", '{"name":1}'), "--profile-json: "),
        (("relay", "--target", "a:1", "--seed", "many"), "--seed many: expected"),
        ((*NONE, "--trace", "/no/where"), "cannot read the trace /no/where: No such file"),
        ((*NONE, "--trace", "generate:"), "the profile 'none' has no rate that could vary"),
        ((*NONE, "--trace-json", "/no/where"), "--trace-json /no/where: "),
        ((*NONE, "--trace-json", "/dev/null"), "--trace-json /dev/null: "),
        ((*NONE, "--begin"), "--begin needs a trace"),
        (("responder", "--listen", "here"), "'here' is no address"),
        (("responder", "--lisen", "127.0.0.1:0"), "unrecognized arguments: --lisen"),
        (("certify",), "needs AT"),
        (("certify", "127.0.0.1"), "'127.0.0.1' is no address"),
        (("certify", "127.0.0.1:1", "--seconds", "0"), "--seconds 0: expected"),
        (("certify", "127.0.0.1:1", "--profile", "x"), "unknown link profile 'x'"),
    ],
)
def test_bad_flags(arguments: tuple[str, ...], words: str) -> None:
    code, out, err = finished(*NETEM, *arguments)
    assert (code, out) == (2, "")
    *progress, sentence = err.splitlines()
    assert sentence.startswith("netem: ")
    assert words in sentence
    assert all(line.startswith("measuring ") for line in progress)


@both_servers
def test_an_address_in_use(arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        code, out, err = finished(*arguments, "--listen", taken)
    assert (code, out) == (4, "")
    assert err.count("\n") == 1
    assert f"cannot listen on {taken}: Address already in use" in err


def test_a_relay_refuses_loss() -> None:
    code, out, err = finished(*RELAY, "--profile", "rate=1mbit,loss=2%")
    assert (code, out) == (4, "")
    assert err.count("\n") == 1
    assert "asks for loss on the uplink" in err


def test_certify_a_link_as_promised(relay: Node) -> None:
    # A profile's bounds are meant for a quiet machine; they may be missed, but not five times.
    promised = "rate=20mbit,delay=3ms"
    for _ in range(5):
        code, out, err = finished(
            *NETEM, "certify", relay.address, "--profile", promised, "--seconds", "1"
        )
        if code == 0:
            break
    assert code == 0, out
    assert "\nverdict        certified\n" in out
    assert "\nlink           relay\n" in out
    assert "\nloss           not measured: a relay carries no datagrams\n" in out
    assert "(asked 19.31 Mbit/s," in out
    assert "(asked 6 to 6.007 ms," in out
    assert all(len(line) <= 80 for line in out.splitlines())
    steps = ("round trips", "goodput up by TCP", "goodput down by TCP")
    assert err == "".join(f"measuring {relay.address}: {step} ...\n" for step in steps)


def test_certify_against_what_the_link_says_it_is(relay: Node) -> None:
    _, out, _ = finished(*NETEM, "certify", relay.address, "--seconds", "0.3", "--json")
    found = msgspec.json.decode(out)
    assert found["profile"]["up"] == {"rate_bps": 20_000_000, "delay_ns": 3_000_000}
    assert found["profile"] == found["measured"]["facts"]["profile"]
    with Node(*SERVERS["responder"]) as bare:
        code, out, err = finished(*NETEM, "certify", bare.address, "--seconds", "0.3")
    assert code == 0
    assert out.startswith("profile        none: not shaped\nlink           direct\n")
    assert "of TCP payload (not asked" in out
    assert re.search(r"uplink loss    \d+ of \d+ packets, ", out)
    assert "loss down by UDP ..." in err


def test_certify_a_link_that_is_another(relay: Node) -> None:
    code, out, err = finished(
        *NETEM, "certify", relay.address, "--profile", "rate=5mbit,delay=40ms", "--seconds", "0.5"
    )
    assert code == 4
    verdict = " ".join(out[out.index("verdict") :].split())
    assert verdict.startswith("verdict outside tolerance: uplink goodput ")
    assert "; round trip " in verdict
    assert err.startswith("measuring ")


def test_certify_for_programs(relay: Node) -> None:
    code, out, err = finished(
        *NETEM,
        "certify",
        relay.address,
        "--profile",
        "rate=5mbit,delay=50ms",
        "--seconds",
        "0.03",
        "--json",
    )
    found = msgspec.json.decode(out)
    assert (code, err) == (4, "")
    assert set(found) == {"measured", "profile", "misses"}
    assert msgspec.convert(found["measured"], LinkMeasurement).rtt_median_ns > 6_000_000
    assert found["profile"]["name"] == "rate=5mbit,delay=50ms"
    assert [miss.split()[0] for miss in found["misses"]] == ["uplink", "downlink", "round"]


def test_certify_keeps_a_certificate(relay: Node, tmp_path: Path) -> None:
    path = tmp_path / "run" / "link.json"
    flags = ("--profile", "rate=20mbit,delay=3ms", "--seconds", "0.06", "--save", str(path))
    command = (*NETEM, "certify", relay.address, *flags)
    finished(*command)
    before = msgspec.json.decode(path.read_bytes(), type=LinkCertificate)
    assert before.kind == "relay"
    assert before.before.facts is not None
    assert before.after is None
    finished(*command)
    after = msgspec.json.decode(path.read_bytes(), type=LinkCertificate)
    assert after.before == before.before
    assert after.after is not None
    assert finished(*command)[0] == 2, "a certificate that is complete stays as it is"
    path.write_text("{}")
    code, _, err = finished(*command)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"netem: {path} is no certificate: ")


def test_certify_where_nobody_answers() -> None:
    port = free_port()
    code, out, err = finished(*NETEM, "certify", f"127.0.0.1:{port}")
    assert (code, out) == (4, "")
    assert f"netem: no probe answers at 127.0.0.1:{port}" in err
    assert "Traceback" not in err


def test_profiles_are_listed_with_their_sources() -> None:
    code, out, err = finished(*NETEM, "profiles")
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    for name, profile in profiles().items():
        assert name in out
        assert profile.source in words


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("relais",), 2), (("--help",), 0)])
def test_no_command_shows_the_commands(arguments: tuple[str, ...], code: int) -> None:
    found, out, err = finished(*NETEM, *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("usage: python -m netem COMMAND")
    for command in ("relay", "responder", "certify", "profiles"):
        assert f"  {command} " in err


@pytest.mark.parametrize("command", ["relay", "responder", "certify"])
def test_every_command_has_help(command: str) -> None:
    code, out, err = finished(*NETEM, command, "--help")
    assert (code, err) == (0, "")
    assert "--config FILE" in out
