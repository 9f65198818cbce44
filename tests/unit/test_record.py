"""What rows and manifests mean, apart from any file."""

from __future__ import annotations

import msgspec

from splitbed.record import FrameRecord, config_id

FRAME = FrameRecord("run-1", 7, 0, warmup=False, status="ok")


def test_derived_times() -> None:
    row = msgspec.structs.replace(
        FRAME,
        wait_ns=1,
        preprocess_ns=20,
        head_ns=300,
        encode_ns=4000,
        window_ns=50_000,
        rtt_ns=600_000,
        finish_ns=7_000_000,
        edge_ns=100_000,
        edge_tail_ns=90_000,
        total_ns=8_000_000,
    )
    assert row.stages_ns == 7_654_321
    assert row.link_ns == 500_000
    assert row.rest_ns == 8_000_000 - 7_654_321


def test_config_id_depends_on_values_only() -> None:
    assert config_id({"a": 1, "b": [2]}) == config_id({"b": [2], "a": 1})
    assert config_id({"a": 1}) != config_id({"a": 2})
    assert len(config_id({})) == 12
