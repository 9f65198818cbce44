"""What is fetched of a tail's outputs, and that a device's head is warm whatever its batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from device_node.head import prepare_head
from device_node.options import DeviceOptions
from splitbed.engine import Engine
from splitbed.session import Frame, ReplyMode
from splitbed.task import Answerer, task_from_json
from splitbed.tensor import Array, TensorSpec
from splitbed.transport import InProcessTransport
from tests.models import info, model, node, weights
from tests.unit.edges import TASK, edge_over, payloads, spec_for


def folder(path: Path) -> Path:
    """x -> r -> scores, and r -> features beside them; the batch is open."""
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Neg", ["r"], ["features"]),
            node("ReduceMean", ["features"], ["scores"], axes=[2, 3], keepdims=0),
        ],
        [info("x", ["N", 3, 8, 8])],
        [info("features", ["N", 3, 8, 8]), info("scores", ["N", 3])],
        weights(),
    )
    path.mkdir()
    onnx.save(proto, str(path / "two.onnx"))
    (path / "two.toml").write_text(TASK + 'scores = "scores"\n', encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("reply", "wanted"), [("result", {"scores"}), ("full", {"features", "scores"})]
)
def test_a_result_fetches_the_scores_alone(
    reply: ReplyMode, wanted: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Sequence[str] | None] = []
    real = Engine.run

    def run(
        self: Engine, feeds: Mapping[str, Array], names: Sequence[str] | None = None
    ) -> list[Array]:
        fetched.append(names)
        return real(self, feeds, names)

    with edge_over(folder(tmp_path / "models")) as edge:
        spec = spec_for(edge.answer("r", "two"), model="two", reply=reply)
        session = edge.service.open_session(spec)
        monkeypatch.setattr(Engine, "run", run)
        x = np.random.default_rng(0).uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)
        sent = payloads(spec, {"r": x})
        got = edge.service.process(Frame(session.session_id, 1, sent), 0)
    assert got.error is None
    assert [set(names or ()) for names in fetched] == [wanted]
    if reply == "result":
        label = int(np.argmax((-x).mean((2, 3))))
        assert msgspec.json.decode(got.result_json)["label"] == label


def test_what_an_answer_reads() -> None:
    outputs = [TensorSpec("a", "float32", (1, 3)), TensorSpec("b", "float32", (1, 3))]
    raw = task_from_json('{"input": "x", "output": "raw", "size": [8, 8]}')
    assert Answerer(raw, outputs).reads == ("a", "b")
    best = task_from_json('{"input": "x", "output": "argmax", "scores": "b", "size": [8, 8]}')
    assert Answerer(best, outputs).reads == ("b",)


def test_a_head_whose_batch_is_open_is_warm_before_its_first_frame(tmp_path: Path) -> None:
    options = DeviceOptions(
        edge="in-process", images=tmp_path, model="two", cut="r", cache=tmp_path / "cache"
    )
    with edge_over(folder(tmp_path / "models")) as edge:
        head = prepare_head(InProcessTransport(edge.service), options, None)
    assert head.engine is not None
    assert head.engine.first_inference_ns > 0
