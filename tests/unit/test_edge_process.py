"""`python -m edge_node` as a process, and the pages that it shows."""

from __future__ import annotations

import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from prometheus_client.parser import text_string_to_metric_families

from edge_node.__main__ import main
from edge_node.status import duration_text
from splitbed.engine import Engine
from splitbed.errors import EdgeUnreachable, SplitbedError, Unauthorised
from splitbed.host import host_facts, versions
from splitbed.record import EdgeFrameRecord, ResourceSample
from splitbed.run_folder import RunFolder, read_rows
from splitbed.session import CutQuestion
from splitbed.transport import Transport
from splitbed.transport.grpc_client import GrpcTransport
from tests.unit.edges import (
    Node,
    boundary_of,
    ends_with_its_parent,
    eventually,
    finished,
    model_folder,
    payloads,
    picture,
    spec_for,
)

HOSTILE = "<b>&'\""
LISTEN = ("--listen", "127.0.0.1:0", "--status", "127.0.0.1:0")
RECORDING_EDGE = ("-m", "edge_node", *LISTEN, "--provider", "cpu", "--threads", "1")
EDGE = (*RECORDING_EDGE, "--records", "")


def hostile_model() -> onnx.ModelProto:
    """Its middle tensor is named like a script."""
    nodes = [
        helper.make_node("Relu", ["x"], ["<script>alert(1)</script>"]),
        helper.make_node("Neg", ["<script>alert(1)</script>"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    x, y = info("x", TensorProto.FLOAT, (1, 4)), info("y", TensorProto.FLOAT, (1, 4))
    graph = helper.make_graph(nodes, "tests", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = model_folder(tmp_path_factory.mktemp("edge") / "models")
    onnx.save(hostile_model(), str(folder / f"{HOSTILE}.onnx"))
    return folder


@pytest.fixture(scope="module")
def edge(models: Path) -> Iterator[Node]:
    """An edge that runs for all tests that only look at it."""
    with Node(*EDGE, "--models", str(models)) as node:
        yield node


@pytest.fixture
def transport(edge: Node) -> Iterator[Transport]:
    made = GrpcTransport(edge.address)
    yield made
    made.close()


def page(edge: Node, path: str) -> tuple[str, str]:
    """Content type and text of one page."""
    with urllib.request.urlopen(f"http://{edge.ready['status']}{path}", timeout=5) as answer:
        return answer.headers["content-type"], answer.read().decode()


def measured(edge: Node) -> dict[tuple[str, ...], float]:
    """Every sample of /metrics, by name and sorted label values."""
    families = text_string_to_metric_families(page(edge, "/metrics")[1])
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_ready_line(edge: Node) -> None:
    assert set(edge.ready) == {"address", "status", "models", "provider"}
    assert edge.ready["models"] == 2
    assert edge.ready["provider"] == "CPUExecutionProvider"
    for key in ("address", "status"):
        host, _, port = edge.ready[key].rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0


def test_healthz(edge: Node) -> None:
    assert page(edge, "/healthz") == ("text/plain; charset=utf-8", "ok\n")


def test_metrics_are_what_prometheus_reads(edge: Node, transport: Transport) -> None:
    kind, text = page(edge, "/metrics")
    assert kind.startswith("text/plain; version=0.0.4")
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert families["splitbed_frames"] == "counter"
    assert families["splitbed_stage_seconds"] == "histogram"
    assert families["splitbed_sessions_open"] == "gauge"
    before = measured(edge)
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
    session = transport.open(spec)
    sent = payloads(spec, boundary_of("sum", picture(1)))
    replies = [session.submit(n, sent).result(10) for n in range(3)]
    # A reply is counted once it was sent.
    key = ("splitbed_frames_total", "tiny", "ok")
    assert eventually(lambda: measured(edge).get(key, 0) == before.get(key, 0) + 3)
    during = measured(edge)
    session.close()

    def grown(*key: str) -> float:
        return during[key] - before.get(key, 0)

    assert grown("splitbed_sessions_open") == 1
    assert grown("splitbed_frames_total", "tiny", "ok") == 3
    assert grown("splitbed_bytes_total", "up", "tiny") == sum(r.request_bytes for r in replies)
    assert grown("splitbed_bytes_total", "down", "tiny") == sum(r.reply_bytes for r in replies)
    for stage in ("queue", "decode", "tail", "encode"):
        assert grown("splitbed_stage_seconds_count", "tiny", stage) == 3
    assert grown("splitbed_stage_seconds_sum", "tiny", "tail") > 0
    assert measured(edge)[("splitbed_sessions_open",)] == before[("splitbed_sessions_open",)]


def test_the_page_shows_models_and_sessions(edge: Node, transport: Transport) -> None:
    kind, text = page(edge, "/")
    assert kind == "text/html; charset=utf-8"
    assert "<li><code>tiny</code></li>" in text
    assert f"<code>{edge.address}</code>" in text
    assert "No device is connected." in text
    spec = spec_for(
        transport.describe_cut(CutQuestion("tiny", "right")), run_id="run-7", coded="raw+zstd:5"
    )
    session = transport.open(spec)
    text = page(edge, "/")[1]
    assert "<strong>run-7</strong> tiny at right, coded raw+zstd:5, split, tail on CPU<tr>" in text
    session.close()
    assert "No device is connected." in page(edge, "/")[1]


def test_the_page_keeps_account_of_every_session(models: Path) -> None:
    flags = ("--tails", "3", "--batch", "4", "--batch-wait-ms", "50")
    with Node(*EDGE, *flags, "--models", str(models)) as node:
        transport = GrpcTransport(node.address)
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")), window=2)
        session = transport.open(spec)
        assert session.agreed.node["tails"] == 3
        assert session.agreed.node["batch"] == 4
        sent = payloads(spec, boundary_of("sum", picture(1)))
        pending = [session.submit(number, sent) for number in range(2)]
        pending.append(session.submit(2, ()))
        replies = [future.result(10) for future in pending]
        assert eventually(lambda: " s<td>3<td>1<td>" in page(node, "/")[1])
        text = page(node, "/")[1]
        assert "<tr><th>Tails at once<td>3, 0 waiting" in text
        assert "<tr><th>Frames in one run<td>4 at most" in text
        most = max(reply.times.batch for reply in replies)
        assert f"<td>{most}</table>" in text
        assert ", 2 in flight at most<tr>" in text
        assert "Not batched" not in text
        session.close()
        transport.close()
        assert node.terminate(within_s=15) == (0, "")


def test_the_page_counts_refusals(models: Path) -> None:
    with Node(*EDGE, "--models", str(models)) as node:
        transport = GrpcTransport(node.address)
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")), model="other")
        assert "<tr><th>Sessions refused<td>0" in page(node, "/")[1]
        with pytest.raises(SplitbedError):
            transport.open(spec)
        text = page(node, "/")[1]
        assert "<tr><th>Sessions refused<td>1" in text
        assert "Audit rows lost" not in text
        transport.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3_725, "1 h 2 min"),
        (2 * 86_400 + 59, "2 d 0 h"),
    ],
)
def test_how_long_it_has_run(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_the_page_escapes_names(edge: Node, transport: Transport) -> None:
    answer = transport.describe_cut(CutQuestion(HOSTILE, "<script>alert(1)</script>"))
    session = transport.open(spec_for(answer, model=HOSTILE))
    text = page(edge, "/")[1]
    session.close()
    assert "<li><code>&lt;b&gt;&amp;&#x27;&quot;</code></li>" in text
    assert "> &lt;b&gt;&amp;&#x27;&quot; at &lt;script&gt;alert(1)&lt;/script&gt;, coded" in text
    assert "<b>" not in text
    assert "<script" not in text


def test_metrics_escape_names_too(edge: Node, transport: Transport) -> None:
    answer = transport.describe_cut(CutQuestion(HOSTILE, "@input"))
    spec = spec_for(answer, model=HOSTILE)
    session = transport.open(spec)
    session.submit(1, (bytes(16),)).result(10)
    session.close()
    assert measured(edge)[("splitbed_frames_total", HOSTILE, "ok")] >= 1


@pytest.mark.parametrize("path", ["/nothing", "/docs", "/../etc/passwd", "/%2e%2e/%2e%2e/etc"])
def test_there_are_no_other_pages(edge: Node, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        page(edge, path)


def test_the_pages_are_read_only(edge: Node) -> None:
    request = urllib.request.Request(f"http://{edge.ready['status']}/", data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(request, timeout=5)


def test_a_refused_session_is_counted(edge: Node, transport: Transport) -> None:
    key = ("splitbed_sessions_refused_total", "model-mismatch")
    before = measured(edge).get(key, 0)
    answer = transport.describe_cut(CutQuestion("tiny", "sum"))
    with pytest.raises(SplitbedError):
        transport.open(spec_for(answer, model_digest="0" * 64))
    assert measured(edge)[key] == before + 1


# --- a life of its own ------------------------------------------------------------------------


def test_configured_by_a_file_and_ended_by_sigterm(models: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" open sesame\n")
    (tmp_path / "bed.toml").write_text(
        f"""
        [device]
        window = 3
        [edge]
        models = "{models}"
        listen = "127.0.0.1:1"
        status = ""
        provider = "cpu"
        threads = 1
        sessions = 1
        records = "{tmp_path / "records"}"
        sample_s = 0.05
        token_file = "{tmp_path / "token"}"
        """
    )
    # Flags win over the file: nobody may listen on port 1 without privileges.
    flags = ("--config", str(tmp_path / "bed.toml"), "--listen", "127.0.0.1:0")
    with Node("-m", "edge_node", *flags) as node:
        assert node.ready["status"] == ""
        assert node.address != "127.0.0.1:1"
        stranger = GrpcTransport(node.address)
        with pytest.raises(Unauthorised):
            stranger.probe()
        stranger.close()
        transport = GrpcTransport(node.address, token="open sesame")
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
        session = transport.open(spec)
        sent = payloads(spec, boundary_of("sum", picture(1)))
        for number in range(4):
            assert session.submit(number, sent).result(10).error is None
        with pytest.raises(SplitbedError, match="1 sessions open"):
            transport.open(spec)
        process = psutil.Process(node.process.pid)
        start = time.monotonic()
        # The device is still connected, with nothing under way.
        assert node.terminate(within_s=15) == (0, "")
        assert time.monotonic() - start < 10
        assert not process.is_running()
        with pytest.raises(EdgeUnreachable):
            session.submit(9, sent).result(5)
        session.close()
        transport.close()
    folder = RunFolder(tmp_path / "records" / "run-1")
    rows = list(read_rows(folder.frames("edge"), EdgeFrameRecord))
    assert [row.frame_id for row in rows] == [0, 1, 2, 3]
    assert list(read_rows(folder.resources("edge"), ResourceSample))


def test_an_edge_started_by_hand_keeps_rows(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Node(*RECORDING_EDGE, "--models", str(models)) as node:
        transport = GrpcTransport(node.address)
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
        session = transport.open(spec)
        reply = session.submit(0, payloads(spec, boundary_of("sum", picture(1)))).result(10)
        session.close()
        transport.close()
        facts = session.agreed.node
        assert facts["threads"] == 1
        assert facts["versions"] == versions()
        assert facts["host"]["processor"] == host_facts()["processor"]
    folder = RunFolder(tmp_path / "runs" / "run-1")
    (row,) = read_rows(folder.frames("edge"), EdgeFrameRecord)
    assert (row.request_bytes, row.reply_bytes) == (reply.request_bytes, reply.reply_bytes)
    assert list(read_rows(folder.resources("edge"), ResourceSample))


def test_an_edge_may_keep_no_rows(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Node(*EDGE, "--status", "", "--models", str(models)) as node:
        made = GrpcTransport(node.address)
        made.open(spec_for(made.describe_cut(CutQuestion("tiny", "sum")))).close()
        made.close()
    assert list(tmp_path.iterdir()) == []


def test_killed_under_work(models: Path) -> None:
    with Node(*EDGE, "--models", str(models)) as node:
        transport = GrpcTransport(node.address)
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")), window=4)
        session = transport.open(spec)
        sent = payloads(spec, boundary_of("sum", picture(1)))
        session.submit(0, sent).result(10)
        node.process.send_signal(signal.SIGSTOP)  # frames are under way for certain
        pending = [session.submit(number, sent) for number in range(1, 5)]
        node.process.kill()
        for future in pending:
            with pytest.raises(EdgeUnreachable, match=node.address):
                future.result(5)
        with pytest.raises(EdgeUnreachable, match=node.address):
            transport.probe()
        session.close()
        transport.close()


def test_ends_with_its_parent(models: Path) -> None:
    assert ends_with_its_parent(*EDGE, "--models", str(models), within_s=5)


@pytest.mark.parametrize("which", ["--listen", "--status"])
def test_an_address_in_use(models: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        code, out, err = finished(*EDGE, "--models", str(models), which, taken)
    assert (code, out) == (5, "")
    assert err.startswith("edge: ")
    assert err.count("\n") == 1
    assert f"cannot listen on {taken}" in err


def test_bad_flags_end_the_process() -> None:
    code, out, err = finished("-m", "edge_node", "--modles", "x")
    assert (code, out) == (2, "")
    assert err.startswith("edge: unrecognized arguments: --modles x")
    assert err.count("\n") == 1


REFUSED = {
    "a type": (("--threads", "many"), "--threads many: "),
    "a range": (("--sessions", "0"), "--sessions 0: "),
    "too seldom": (("--sample-s", "1e12"), "--sample-s 1e12: "),
    "a message": (("--message-mib", "4000"), "--message-mib 4000: "),
    "a provider": (("--provider", "tpu"), "--provider tpu: "),
    "no models": (("--models", "{tmp}/none"), "none is not there: give a model folder or file"),
    "half of TLS": (("--tls-cert", "{tmp}/x"), "TLS needs both --tls-cert and --tls-key"),
    "no certificate": (
        ("--tls-cert", "{tmp}/x", "--tls-key", "{tmp}/y"),
        "cannot read {tmp}/x (No such file",
    ),
    "no token": (("--token-file", "{tmp}/none"), "cannot read the token in {tmp}/none"),
    "an empty token": (("--token-file", "{tmp}/empty"), "the token file {tmp}/empty is empty"),
    "no file": (("--config", "{tmp}/none.toml"), "cannot read {tmp}/none.toml: No such file"),
    "no TOML": (("--config", "{tmp}/empty.onnx"), "empty.onnx is not valid TOML"),
    "a table": (("--config", "{tmp}/table.toml"), "table.toml has 'egde' at the top"),
    "a key": (("--config", "{tmp}/key.toml"), "unknown key 'modles' in [edge]"),
    "a type in a file": (("--config", "{tmp}/type.toml"), "'threads' in [edge] of {tmp}/type.toml"),
}


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize(("flags", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "empty.onnx").write_text("\x01")
    (tmp_path / "table.toml").write_text("[egde]\nthreads = 1\n")
    (tmp_path / "key.toml").write_text('[edge]\nmodles = "x"\n')
    (tmp_path / "type.toml").write_text('[edge]\nthreads = "2"\n')
    code = main(["--listen", "127.0.0.1:0", *(flag.format(tmp=tmp_path) for flag in flags)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("edge: ")
    assert err.count("\n") == 1
    assert words.format(tmp=tmp_path) in err


@pytest.mark.usefixtures("_own_signals")
def test_a_provider_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        Engine(hostile_model().SerializeToString(), provider="cuda")
    except SplitbedError:
        assert main(["--provider", "cuda", "--listen", "127.0.0.1:0"]) == 3
        words = capsys.readouterr().err
        assert words.startswith("edge: CUDAExecutionProvider was asked for and is not available")
        assert words.count("\n") == 1
    else:
        pytest.skip("this machine has a GPU that works")


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--models", "--token-file", "--message-mib", "--config", "--sample-s"):
        assert flag in text
