"""A frame's time against arithmetic: head + encode + bytes over rate + round trip + decode + tail.

    python tests/benchmarks/end_to_end.py [--frames 60] [--link rate=50mbit,delay=20ms] [--json]

Device, relay and edge run as three processes, codec raw, on a generated network (random weights:
nothing but sizes and times is read off it) whose boundary has the sizes given. Also prints the
bookkeeping rest and the transport excess of each run.
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
from experiments.planning import RunOptions, plan_run
from experiments.preparation import prepare_model
from experiments.summary import summarise
from experiments.testbed import Testbed, TestbedOptions
from netem.profiles import find_profile

CHANNELS = (7, 25, 89)
"""Boundaries of 448 kB, 1.6 MB and 5.7 MB at 126 x 126."""


def network(folder: Path, channels: int) -> Path:
    """Two convolutions with a boundary of channels x 126 x 126 between them, and a classifier."""
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
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 128, 128])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [weights("w1", channels, 3, 3, 3), weights("w2", 10, channels, 3, 3)],
    )
    path = folder / f"bench{channels}.onnx"
    onnx.save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    path.with_suffix(".toml").write_text("[task]\nmean = [127.5]\nstd = [127.5]\n")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--link", default="rate=50mbit,delay=20ms")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "pictures", HELD_OUT_SEED, 20)
        pictures = read_pictures(folder / "pictures", None)
        for channels in CHANNELS:
            path = network(folder, channels)
            run = RunOptions(
                model=path,
                cut="boundary",
                images=folder / "pictures",
                link=options.link,
                frames=options.frames,
                out=folder / "runs",
            )
            plan = plan_run(prepare_model(path), run, pictures, folder, Console(quiet=True))
            settings = TestbedOptions(
                profile=find_profile(options.link),
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
                    "frames": summary.frames_ok,
                    "p50_ms": summary.total_ms["p50"].value,
                    "arithmetic_ms": summary.arithmetic_ms,
                    "off_pct": 100 * (summary.total_ms["p50"].value / summary.arithmetic_ms - 1),
                    "transport_excess_ms": summary.transport_excess_ms,
                    "rest_pct": summary.rest_pct,
                    "link": "; ".join(summary.violations) or "certified",
                }
            )
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return 0
    print(f"link {options.link}, codec raw, {options.frames} frames after warm-up")
    print(" boundary    p50 ms  arithmetic ms  off %  transport excess ms  rest %  link")
    for row in rows:
        print(
            f"{row['boundary_bytes']:9,}  {row['p50_ms']:8.2f}  {row['arithmetic_ms']:13.2f}  "
            f"{row['off_pct']:+5.2f}  {row['transport_excess_ms']:19.2f}  {row['rest_pct']:6.3f}  "
            f"{row['link']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
