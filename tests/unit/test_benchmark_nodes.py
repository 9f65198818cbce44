"""What benchmarks start: pinned, of the tree that was asked for, and never left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from experiments.children import start_module
from netem import backend
from netem.profiles import find_profile
from netem.relay_link import ProcessLink
from splitbed.errors import EngineError, LinkError, TransportError, UsageError
from tests.benchmarks import pipelining
from tests.benchmarks.nodes import ROOT, Program, edge
from tests.unit.edges import eventually, gone, model_folder

LISTENS = 'print(\'{"address": "here:1"}\', flush=True); import sys; print(sys.stdin.readline())'


def test_a_program_says_where_it_listens_and_answers() -> None:
    with Program("listener", "-c", LISTENS) as program:
        assert program.address == "here:1"
        program.tell("hello")
        assert program.line() == "hello\n"
        program.finish(20)


def test_whatever_ends_the_block_ends_the_program(tmp_path: Path) -> None:
    node = edge(model_folder(tmp_path))

    def fail() -> None:
        with node:
            assert node.address.startswith("127.0.0.1:")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert node.process.returncode == 0


def test_it_ends_with_the_benchmark() -> None:
    serves = "from tests.benchmarks.nodes import end_with_benchmark as end\nend()\n" + LISTENS
    starts = (
        "import os, signal\nfrom tests.benchmarks.nodes import Program\n"
        f"served = Program('server', '-c', {serves!r})\n"
        "assert served.address\nprint(served.process.pid, flush=True)\nsignal.pause()"
    )
    with Program("benchmark", "-c", starts) as benchmark:
        server = psutil.Process(int(benchmark.line()))
        assert not gone(server)
        benchmark.process.kill()
        assert eventually(lambda: gone(server), 20)


@pytest.mark.parametrize(
    "ask", [lambda one: one.address, lambda one: one.line(), lambda one: one.finish(20)]
)
def test_last_words_of_a_program_that_fails(ask: Callable[[Program], object]) -> None:
    fails = "import sys; sys.stderr.write('first\\nno engine today\\n'); sys.exit(3)"
    with Program("server", "-c", fails) as program, pytest.raises(EngineError, match="no engine t"):
        ask(program)


def test_a_program_that_ends_without_a_word() -> None:
    with Program("server", "-c", "") as program, pytest.raises(TransportError, match="a word"):
        program.line()


def told(program: Program) -> None:
    program.process.wait(20)
    program.tell("go on")


def test_a_program_that_ended_before_it_was_told_to() -> None:
    with Program("server", "-c", "") as program, pytest.raises(TransportError, match="before it w"):
        told(program)
    fails = "import sys; sys.stderr.write('no engine today'); sys.exit(3)"
    with Program("server", "-c", fails) as program, pytest.raises(EngineError, match="no engine t"):
        told(program)


def test_another_tree(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no source tree of splitbed at"):
        Program("server", "-c", "", tree=tmp_path)
    (tmp_path / "splitbed").mkdir()
    (tmp_path / "splitbed" / "__init__.py").touch()
    where = "import splitbed; print(splitbed.__file__)"
    for tree in (tmp_path, ROOT):
        with Program("server", "-c", where, tree=tree) as program:
            assert Path(program.line().strip()) == tree / "splitbed" / "__init__.py"


@pytest.mark.skipif(sys.platform != "linux", reason="processors are chosen on Linux alone")
def test_a_processor_of_its_own() -> None:
    processor = max(os.sched_getaffinity(0))
    code = "import os; print(os.sched_getaffinity(0))"
    with Program("server", "-c", code, processor=processor) as program:
        assert program.line() == f"{{{processor}}}\n"


def test_pipelining_asks_for_the_kernel_s_links_first_of_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backend, "hosts_lack", lambda: "this kernel has no sch_netem: load it")
    monkeypatch.setattr(sys, "argv", ["pipelining", "--backend", "kernel"])
    with pytest.raises(LinkError, match="no sch_netem"):
        pipelining.main()
    assert capsys.readouterr().out == ""


def test_only_a_relay_has_cpu_time(tmp_path: Path) -> None:
    profile = find_profile("rate=10mbit")
    relay = ProcessLink(profile, "127.0.0.1:1", tmp_path / "log", start_module)
    direct = ProcessLink(find_profile("none"), "127.0.0.1:1", tmp_path / "log", start_module)
    try:
        for link, has_any in ((relay, True), (direct, False)):
            seen = pipelining.Relay(link)
            assert seen.frame_cpu_s == 0
            seen.read(1)
            for _ in range(4):
                link.measure(0.05)
            seen.read(1)
            seen.read(3)
            assert (seen.frame_cpu_s > 0) is has_any
    finally:
        relay.close()
        direct.close()
