"""Several runs behind one link: measured together, told apart, ended together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from netem.attendance import Attendance
from splitbed.address import host_and_port
from splitbed.certificate import LinkMeasurement
from splitbed.record import RunManifest
from splitbed.run_folder import read_manifest
from tests.integration.nodes import (
    ALONE,
    finish,
    one_sentence,
    ready,
    splitbed,
    start,
    stop,
    wait_for_rows,
)

LINK = "rate=40mbit,delay=4ms"


@pytest.fixture
def link() -> Iterator[str]:
    """The address of a relay before an edge with the embedded model."""
    edge = start("edge_node", *ALONE)
    relay = start(
        "netem",
        *("relay", "--target", ready(edge)["address"], "--listen", "127.0.0.1:0"),
        *("--profile", LINK),
    )
    try:
        yield ready(relay)["address"]
    finally:
        assert stop(relay) == 0
        assert stop(edge) == 0


def flags(link: str, out: Path, *others: object) -> tuple[object, ...]:
    """A run without a model file or pictures of its own; a busy machine's link may stray."""
    return (
        *("run", "gesture", "--edge", link, "--link", LINK, "--frames", 6, "--out", out),
        *("--certify-s", "0.6", "--accept-uncertified", *others),
    )


def manifests(out: Path) -> list[RunManifest]:
    return [read_manifest(path.parent) for path in sorted(out.glob("*/manifest.json"))]


def test_two_devices_share_measurements_and_end_together(link: str, tmp_path: Path) -> None:
    runs = [
        start("splitbed.cli", *flags(link, tmp_path, "--together", "--cut", cut))
        for cut in ("layer3", "layer4")
    ]
    for run in runs:
        code, out, err = finish(run)
        assert code == 0, err
        assert "2 devices shared it" in out
        assert f"made by the relay in user space at {link}" in " ".join(err.split())
    found = [manifest.certificate for manifest in manifests(tmp_path)]
    assert len(found) == 2
    first, second = found
    assert first is not None
    assert first.after is not None
    assert first == second  # one measured for both, before and after
    assert first.users == 2
    assert first.kind == "relay"
    for manifest in manifests(tmp_path):
        assert manifest.outcome == "complete"
        assert any("2 devices shared the link" in note for note in manifest.notes)


def test_a_device_that_fails_makes_all_fail(link: str, tmp_path: Path) -> None:
    measured = LinkMeasurement((8_000_000,), 38e6, 38e6, 1, 1, 0.1)
    other = Attendance(host_and_port(link))  # holds the good one up until the bad one is there
    assert other.idle(10, None, lambda _: None).say == "measure"
    other.measured(measured)
    good = start("splitbed.cli", *flags(link, tmp_path, "--together", "--cut", "layer3"))
    wait_for_rows(tmp_path, 11)
    bad = start("splitbed.cli", *flags(link, tmp_path, "--together", "--cut", "nope"))
    assert bad.stderr is not None
    assert "has no cut 'nope'" in bad.stderr.readline()
    other.close()
    assert finish(bad)[0] == 2
    code, out, err = finish(good)
    assert code == 7
    assert "another on its link is not: it ended with exit code 2" in one_sentence(err)
    assert "6 of 6 measured" in out
    (manifest,) = manifests(tmp_path)
    assert manifest.outcome == "complete"
    assert manifest.certificate is not None
    assert manifest.certificate.before == measured  # late, so with the last there was


def test_without_the_flag_nobody_is_waited_for(link: str, tmp_path: Path) -> None:
    done = splitbed(*flags(link, tmp_path, "--cut", "layer3"))
    assert done.returncode == 0, done.stderr
    (manifest,) = manifests(tmp_path)
    assert manifest.certificate is not None
    assert manifest.certificate.users == 1
    assert not any("shared" in note for note in manifest.notes)


def test_a_responder_is_no_way_to_an_edge(tmp_path: Path) -> None:
    responder = start("netem", "responder", "--listen", "127.0.0.1:0")
    try:
        done = splitbed(*flags(ready(responder)["address"], tmp_path, "--cut", "layer3"))
    finally:
        stop(responder)
    assert done.returncode == 4
    assert "does not say where the edge is" in one_sentence(done.stderr)


def test_a_link_that_is_another_than_asked_for_says_so(link: str, tmp_path: Path) -> None:
    done = splitbed(*flags(link, tmp_path, "--cut", "layer3", "--link", "rate=10mbit,delay=9ms"))
    assert done.returncode == 0, done.stderr
    assert f"says that it is '{LINK}'" in " ".join(done.stderr.split())


def test_together_is_for_a_link_with_others(tmp_path: Path) -> None:
    done = splitbed("run", "gesture", "--cut", "layer3", "--together", "--out", tmp_path)
    assert done.returncode == 2
    assert "--edge" in one_sentence(done.stderr)
