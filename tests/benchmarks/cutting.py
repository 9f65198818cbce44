"""Speed and memory of listing and cutting, beside onnx's own extractor, in one run.

    python tests/benchmarks/cutting.py [--network resnet152] [--large-gb 2.5] [--rounds 5]

Lists all cuts of ResNet-152 with shapes; cuts one tail out of its file, against
`onnx.utils.extract_model`, and in memory, against `onnx.utils.Extractor`; then cuts both parts of a
model with external data, in a process of its own whose peak memory is read. Files are written to
a folder that is removed afterwards; every round writes to a new one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from splitbed import zoo
from splitbed.graph import canonicalise, cut_points, extract, find_cut, list_cuts, load
from splitbed.host import described

WIDTH = 4096
"""Of the large model's square weights: 64 MiB each."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet152")
    parser.add_argument("--large-gb", type=float, default=2.5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{described()}\n")
    with tempfile.TemporaryDirectory(prefix="splitbed-") as name:
        folder = Path(name)
        path = folder / "network.onnx"
        proto = zoo.build(options.network)
        path.write_bytes(proto.SerializeToString())
        del proto
        small(path, folder, options.network, options.rounds)
        large(folder, options.large_gb)
    return 0


def small(path: Path, folder: Path, name: str, rounds: int) -> None:
    loaded = load(path)
    model = canonicalise(loaded)
    listing = list_cuts(model)
    times = [timed(lambda: list_cuts(canonicalise(loaded))) for _ in range(rounds)]
    print(
        f"{name}, {path.stat().st_size / 1e6:.0f} MB: canonicalised and {len(listing.cuts)} cuts "
        f"listed in {median(times):.3f} s (loaded in {timed(lambda: load(path)):.3f} s)"
    )
    # The last stage end in the middle of the network: both parts are large.
    ends = [cut.point for cut in listing.legal if cut.marks.stage and cut.marks.single]
    point = ends[len(ends) // 2]
    assert point.cut is not None
    inputs = [spec.name for spec in point.cut.boundary]
    outputs = [spec.name for spec in model.outputs]
    ours, theirs = [], []
    for turn in range(rounds):
        here = folder / f"ours{turn}.onnx"
        there = folder / f"theirs{turn}.onnx"

        def cut_file(target: Path = here) -> None:
            opened = canonicalise(load(path))
            found = extract(opened, find_cut(opened, cut_points(opened), point.name))
            assert found.second is not None
            found.second.file.write(target)

        ours.append(timed(cut_file))
        theirs.append(
            timed(lambda: onnx.utils.extract_model(str(path), str(there), inputs, outputs))  # noqa: B023
        )
        same = {i.name for i in onnx.load(here).graph.initializer} == {
            i.name for i in onnx.load(there).graph.initializer
        }
        assert same, "the two tails hold other weights"
        size = here.stat().st_size
        here.unlink()
        there.unlink()
    print(
        f"tail at {point.name} ({size / 1e6:.0f} MB), file to file: {median(ours):.3f} s, "
        f"onnx.utils.extract_model {median(theirs):.2f} s, "
        f"{median(a / b for a, b in zip(theirs, ours, strict=True)):.1f} times as long"
    )
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path))
    extractor = onnx.utils.Extractor(inferred)

    def message() -> onnx.ModelProto:
        return extractor.extract_model(inputs, outputs)

    def tail() -> Any:
        found = extract(model, point).second
        assert found is not None
        return found

    pairs = {
        "a model to look at": (tail, message),
        "bytes for a runtime": (lambda: tail().content, lambda: message().SerializeToString()),
    }
    for label, (one, other) in pairs.items():
        ratios = []
        for _ in range(2 * rounds):
            a, b = timed(one), timed(other)
            ratios.append((a / b, a, b))
        middle = median(r for r, _, _ in ratios)
        print(
            f"in memory, {label}: {1e3 * median(a for _, a, _ in ratios):.1f} ms, "
            f"onnx.utils.Extractor {1e3 * median(b for _, _, b in ratios):.1f} ms, "
            f"ratio {middle:.2f}"
        )


def large(folder: Path, gigabytes: float) -> None:
    path = folder / "large.onnx"
    count = round(gigabytes * 1e9 / (4 * WIDTH**2))
    make_large(path, count)
    results = multiprocessing.get_context("spawn").SimpleQueue()
    child = multiprocessing.get_context("spawn").Process(
        target=cut_both, args=(path, folder, count, results)
    )
    child.start()
    facts = results.get()
    child.join()
    print(
        f"external data, {facts['weights'] / 1e9:.2f} GB: parts of {facts['head'] / 1e9:.2f} and "
        f"{facts['tail'] / 1e9:.2f} GB in {facts['seconds']:.1f} s, peak memory "
        f"{facts['peak'] / 1e6:.0f} MB ({facts['start'] / 1e6:.0f} MB before), "
        f"{facts['peak'] / facts['larger']:.3f} of the larger part's weights"
    )


def make_large(path: Path, count: int) -> None:
    """A chain of matrix products whose weights lie in one file beside the graph."""
    data = path.with_suffix(".bin")
    nbytes = 4 * WIDTH**2
    nodes, initialisers = [], []
    rng = np.random.default_rng(0)
    with data.open("wb") as file:
        for index in range(count):
            # Scaled, so that values neither grow nor vanish along the chain.
            file.write((rng.standard_normal(WIDTH**2, np.float32) / WIDTH**0.5).tobytes())
            tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", data.name),
                ("offset", index * nbytes),
                ("length", nbytes),
            ):
                tensor.external_data.add(key=key, value=str(value))
            initialisers.append(tensor)
            source = f"t{index - 1}" if index else "x"
            nodes.append(helper.make_node("MatMul", [source, f"w{index}"], [f"t{index}"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH])
        for name in ("x", f"t{count - 1}")
    ]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], initialisers)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())


def cut_both(path: Path, folder: Path, count: int, results: Any) -> None:
    start = peak_bytes()
    begin = time.perf_counter()
    model = canonicalise(load(path))
    point = find_cut(model, cut_points(model), f"t{2 * count // 5}")
    parts = extract(model, point)
    assert parts.first is not None
    assert parts.second is not None
    sizes = {}
    for name, part in (("head", parts.first), ("tail", parts.second)):
        part.file.write(folder / f"{name}.onnx")
        sizes[name] = part.file.nbytes
    results.put(
        {
            **sizes,
            "weights": 4 * WIDTH**2 * count,
            "larger": 4 * WIDTH**2 * (count - 2 * count // 5 - 1),
            "seconds": time.perf_counter() - begin,
            "start": start,
            "peak": peak_bytes(),
        }
    )


def peak_bytes() -> int:
    """Largest resident memory of this process since its program began (Linux)."""
    # Not getrusage: that also counts what the parent had when it forked.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's peak memory")


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
