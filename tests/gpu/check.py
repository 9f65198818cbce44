"""The edge's tail on a GPU: equal to the CPU, what each part costs, and what happens without room.

    python tests/gpu/check.py [--provider cuda] [--zoo NAMES] [--models DIR] [--rounds N]

For a machine with a GPU and onnxruntime-gpu; everything else that it needs is what an edge needs,
and no network. It takes the embedded model, some of the zoo and every ONNX file of --models, cuts
each near a quarter, a half and three quarters of its nodes, and runs the tails on real intermediate
data (a rendered picture through the head). Times are medians; ratios are of rounds in turns, with
their 95 % intervals.

Exit code 1 where a check failed, 3 where the provider is not there. With --provider cpu it runs
anywhere, as a check of itself: buffers are then bound in the host's memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Parse, run every check, print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--zoo", help="networks, '' for none (mobilenet_v2,resnet50; on the CPU mobilenet_v2)"
    )
    parser.add_argument("--models", type=Path, help="folder of more ONNX files")
    parser.add_argument("--rounds", type=int, help="of each timing (50; on the CPU 10)")
    parser.add_argument("--fill", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_cpu = options.provider == "cpu"
    rounds = options.rounds or (10 if on_cpu else 50)
    zoo = options.zoo
    if zoo is None:
        zoo = "mobilenet_v2" if on_cpu else "mobilenet_v2,resnet50"
    sys.path.insert(0, str(ROOT))  # a fresh checkout, nothing of it installed

    from splitbed.engine import distribution_conflict, working_provider
    from splitbed.errors import ProviderMissing, SplitbedError
    from splitbed.host import described, versions
    from tests.gpu import hardware, measured
    from tests.gpu.cases import Tail, model_files, tails

    if conflict := distribution_conflict():
        print(f"check: {conflict}", file=sys.stderr)
    start_s = time.perf_counter()
    try:
        provider = working_provider(options.provider)
    except ProviderMissing as error:
        print(f"check: {error}", file=sys.stderr)
        return 3
    ready_s = time.perf_counter() - start_s
    if options.fill:
        return hardware.fill(options.provider, Path(options.fill[0]), options.fill[1])
    check = measured.Check(options.provider, rounds)
    made_with = ", ".join(f"{k} {v}" for k, v in versions().items() if k.startswith("onnx"))
    print(
        f"{provider}; {described()}\n{made_with}; {rounds} rounds of A B B A; "
        f"provider ready in {ready_s:.1f} s"
    )
    with tempfile.TemporaryDirectory() as scratch:
        names = [name for name in zoo.split(",") if name]
        by_file: dict[Path, list[Tail]] = {}
        for path in model_files(names, options.models, Path(scratch)):
            try:
                by_file[path] = list(tails(path))
            except SplitbedError as error:
                print(f"{path.stem[:24]:<24}  skipped: {error}")
        every = [tail for found in by_file.values() for tail in found]
        path = max((p for p in by_file if by_file[p]), key=lambda p: p.stat().st_size)
        measured.compare(check, every)
        measured.cross(check, every)
        measured.batches(check, every)
        measured.threads(check, by_file[path][-1])
        hardware.tensorrt(check, by_file[path][0])
        hardware.energy(check, by_file[path][0])
        hardware.memory(check, path, by_file[path][0])
    print()
    for what, passed, why in check.found:
        word = "skipped" if passed is None else "ok" if passed else "FAILED"
        print(f"{word:<8} {what}{f' ({why})' if why else ''}")
    return 1 if any(passed is False for _, passed, _ in check.found) else 0


if __name__ == "__main__":
    sys.exit(main())
