"""`splitbed demo`, small."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.nodes import splitbed


def test_the_demo_ends_with_a_report(tmp_path: Path) -> None:
    done = splitbed(
        *("demo", "--frames", 8, "--pictures", 40, "--out", tmp_path / "runs"),
        *("--cache", tmp_path / "cache", "--link", "rate=30mbit,delay=3ms", "--certify-s", "0.5"),
        "--accept-uncertified",  # not the link is tested here, and this machine may be busy
        timeout_s=180,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    pages = list((tmp_path / "runs").glob("*/report.html"))
    assert len(pages) == 1
    page = pages[0].read_text()
    assert page.count("<svg") == 2
    assert "splitting" in page
    assert "@picture jpeg:90" in page
    # Self-contained: nothing is loaded from anywhere.
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", page)
    assert re.search(r"splitting (helps|does not help)|cannot tell whether splitting", done.stdout)
    # The table fits a terminal of 80 columns.
    assert max(map(len, done.stdout.splitlines())) <= 80
