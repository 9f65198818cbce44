"""What the kernel makes of any links between two hosts of this machine, beyond the test's table.

    python tests/benchmarks/link_rates.py rate=400mbit rate=1gbit,delay=5ms,loss=0.1%

Each link is measured once for every `--times`, and every measurement is printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.netem.test_profiles import HEAD, SECONDS, row, strict, two_hosts

LINKS = (
    *("rate=400mbit", "rate=1gbit"),
    *(
        "rate=200mbit,delay=5ms",
        "rate=400mbit,delay=5ms,loss=0.1%",
        "rate=1gbit,delay=5ms,loss=0.1%",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("links", nargs="*", default=LINKS, metavar="LINK")
    parser.add_argument("--times", type=int, default=2)
    asked = parser.parse_args()
    print(HEAD, "  TCP Mbit/s", sep="")
    for text in asked.links:
        profile = strict(text)
        for _ in range(asked.times):
            with tempfile.TemporaryDirectory() as folder, two_hosts(profile, Path(folder)) as link:
                found = link.measure(SECONDS)
            goodput = [bps / 1e6 for bps in (found.up_goodput_bps, found.down_goodput_bps)]
            print(row(text, profile, found), *(f"{mbps:7.1f}" for mbps in goodput), flush=True)


if __name__ == "__main__":
    main()
