"""What the certified link says that a frame should have taken, and whether it was that link."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from splitbed.certificate import LinkCertificate
from splitbed.record import FrameRecord, RunManifest

_TOO_FAST_NS: Final = 2_000_000
_TOO_FAST_SHARE: Final = 0.05
"""A frame that is faster than the certified link by more than both together went another way."""


def predicted_link_ns(
    rows: Sequence[FrameRecord], certificate: LinkCertificate
) -> dict[int, float]:
    """Time between the nodes that the certified link predicts for each frame, by frame id.

    Messages go one after the other at the certified rate and travel half the round trip each way;
    one that is submitted while another is being sent waits for it.
    """
    up_free = down_free = 0.0
    one_way = certificate.rtt_ns / 2
    up_bps, down_bps = certificate.payload_bps("up"), certificate.payload_bps("down")
    found = {}
    for row in rows:
        if not row.is_answered:
            continue
        worked = row.preprocess_ns + row.head_ns + row.encode_ns
        submitted = row.intended_ns + row.wait_ns + worked + row.queue_ns + row.window_ns
        sent = max(submitted, up_free) + row.request_bytes * 8e9 / up_bps
        replied = sent + one_way + row.edge_ns
        came = max(replied, down_free) + row.reply_bytes * 8e9 / down_bps
        up_free, down_free = sent, came
        found[row.frame_id] = came + one_way - submitted - row.edge_ns
    return found


def violations(
    certificate: LinkCertificate | None,
    manifest: RunManifest,
    rows: Sequence[FrameRecord],
    predicted: dict[int, float] | None,
) -> tuple[str, ...]:
    """Each reason, as a clause, why a run's link is not the certified one; () if none."""
    if certificate is None:
        return ("the link was not certified",)
    found = certificate.violations()
    if manifest.certificate is None:
        found += _not_this_run(certificate, manifest)
    if manifest.config.get("trace") and manifest.replay is None and manifest.ended_utc:
        found.append("the link's trace was not replayed to the run's end")
    if predicted is None:  # the link changed while frames went over it
        return tuple(found)
    middle = median(predicted[row.frame_id] for row in rows)
    faster_ns = -median(row.link_ns - predicted[row.frame_id] for row in rows)
    if faster_ns > _TOO_FAST_NS + _TOO_FAST_SHARE * middle:
        found.append(
            f"frames took {faster_ns / 1e6:.1f} ms less between the nodes than the certified link "
            "allows: they went another way"
        )
    return tuple(found)


def _not_this_run(certificate: LinkCertificate, manifest: RunManifest) -> list[str]:
    """Why a certificate made by hand says nothing of this run, if so."""
    edge = str(manifest.config.get("edge", ""))
    before, after = certificate.before, certificate.after
    found = [
        f"certified at {measured.at}, and run over {edge}"
        for measured in (before, after)
        if measured is not None and measured.frames_at != edge
    ][:1]
    # All by the clock of the device's machine.
    if before.taken_utc > manifest.started_utc:
        found.append("the first measurement of the link was not before the run")
    if after is not None and after.taken_utc < manifest.ended_utc:
        found.append("the second measurement of the link was not after the run")
    return found


def arithmetic(
    rows: Sequence[FrameRecord], predicted: dict[int, float] | None, is_alone: bool
) -> dict[str, Any]:
    """`arithmetic_ms`, where each frame had everything to itself, and `transport_excess_ms`."""
    if predicted is None:
        return {"arithmetic_ms": None, "transport_excess_ms": None}
    parts = [
        r.preprocess_ns
        + r.head_ns
        + r.encode_ns
        + r.edge_decode_ns
        + r.edge_tail_ns
        + predicted[r.frame_id]
        for r in rows
    ]
    excess = [row.link_ns - predicted[row.frame_id] for row in rows]
    return {
        "arithmetic_ms": median(parts) / 1e6 if is_alone else None,
        "transport_excess_ms": median(excess) / 1e6,
    }
