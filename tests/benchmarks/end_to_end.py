"""A frame's time against arithmetic: head + encode + bytes over rate + round trip + decode + tail.

    python tests/benchmarks/end_to_end.py [--frames 60] [--link rate=50mbit,delay=20ms]
        [--backend auto|kernel|relay] [--certify-s 3] [--json]

Device, link and edge run as three processes, codec raw, on a generated network (random weights:
nothing but sizes and times is read off it) whose boundary has the sizes given. Also prints the
bookkeeping rest and the transport excess of each run, and by how much the very first frame of the
connection, which is a warm-up frame, took longer than the median.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from experiments.gestures import HELD_OUT_SEED, write_folder
from experiments.measurement import measure
from experiments.pictures import read_pictures
from experiments.planning import plan_run
from experiments.preparation import prepare_model
from experiments.run_options import RunOptions
from experiments.summary import summarise
from experiments.testbed import Testbed, TestbedOptions
from netem.backend import choose
from netem.profiles import find_profile
from splitbed.process import guarded
from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_rows

BOUNDARIES = ((1, 71), (7, 120), (25, 126), (94, 126))
"""Channels and side of boundaries of 20 kB, 403 kB, 1.6 MB and 6.0 MB."""


def network(folder: Path, channels: int, side: int) -> Path:
    """Two convolutions with a boundary of channels x side x side between them, and a classifier."""
    rng = np.random.default_rng(channels)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["boundary"], name="conv1"),
        helper.make_node("Conv", ["boundary", "w2"], ["deep"], name="conv2", strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["deep"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side + 2, side + 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [weights("w1", channels, 3, 3, 3), weights("w2", 10, channels, 3, 3)],
    )
    path = folder / f"bench{channels}.onnx"
    onnx.save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    path.with_suffix(".toml").write_text("[task]\nmean = [127.5]\nstd = [127.5]\n")
    return path


def first(folder: Path) -> float:
    """The connection's first frame, from due to answered, in milliseconds."""
    row = next(iter(read_rows(RunFolder(folder).frames("device"), FrameRecord)))
    return row.total_ns / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--link", default="rate=50mbit,delay=20ms")
    parser.add_argument("--backend", choices=("auto", "kernel", "relay"), default="auto")
    parser.add_argument("--certify-s", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "pictures", HELD_OUT_SEED, 20)
        pictures = read_pictures(folder / "pictures", None)
        for channels, side in BOUNDARIES:
            path = network(folder, channels, side)
            profile = find_profile(options.link)
            run = RunOptions(
                model=path,
                cut="boundary",
                images=folder / "pictures",
                link=options.link,
                frames=options.frames,
                certify_s=options.certify_s,
                out=folder / "runs",
            )
            plan = plan_run(prepare_model(path), run, pictures, folder, Console(quiet=True))
            settings = TestbedOptions(
                profile=profile,
                kind=choose(options.backend, profile).kind,
                models=path,
                out=run.out,
                remote=None,
                provider="cpu",
                edge_threads=1,
                certify_s=run.certify_s,
                sample_s=run.sample_s,
                seed=0,
            )
            run_id = plan.new_run_id()
            with Testbed(settings, run.out / run_id) as testbed:
                measure(testbed, plan, run_id, threading.Event(), lambda _: None)
            summary = summarise(run.out / run_id)
            assert summary.complete, summary.outcome
            assert summary.arithmetic_ms is not None
            rows.append(
                {
                    "boundary_bytes": summary.raw_bytes,
                    "kind": summary.link_kind,
                    "frames": summary.frames_ok,
                    "p50_ms": summary.total_ms["p50"].value,
                    "arithmetic_ms": summary.arithmetic_ms,
                    "off_pct": 100 * (summary.total_ms["p50"].value / summary.arithmetic_ms - 1),
                    "transport_excess_ms": summary.transport_excess_ms,
                    "first_ms": first(run.out / run_id) - summary.total_ms["p50"].value,
                    "rest_pct": summary.rest_pct,
                    "link": "; ".join(summary.violations) or "certified",
                }
            )
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return 0
    kind = rows[0]["kind"]
    print(f"link {options.link} ({kind}), codec raw, {options.frames} frames after warm-up")
    print(" boundary    p50 ms  arithmetic    off %  excess ms  first +ms  rest %  link")
    for row in rows:
        print(
            f"{row['boundary_bytes']:9,}  {row['p50_ms']:8.2f}  {row['arithmetic_ms']:10.2f}  "
            f"{row['off_pct']:+6.2f}  {row['transport_excess_ms']:9.2f}  {row['first_ms']:+9.1f}  "
            f"{row['rest_pct']:6.3f}  {row['link']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "end_to_end"))
