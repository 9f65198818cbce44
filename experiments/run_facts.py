"""What a run's manifest says of it, as a summary holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from experiments.flow import Load
from splitbed import codec
from splitbed.certificate import LinkCertificate
from splitbed.flags import BATCH_WAIT_MS
from splitbed.record import RunManifest
from splitbed.session import TensorCodec


class Setting(msgspec.Struct, frozen=True):
    """What runs must share to be compared, as it was asked for; None where nobody did."""

    window: int | None
    threads: int | None
    edge_threads: int | None
    provider: str | None
    load: str = ""
    """Of open loop: its rate, and what is dropped when; the window says all of any other."""
    cpus: str | None = None
    cpu_quota: float | None = None
    turns: str = ""
    """How tails take turns on the edge; "" where nobody asked: one by one, as its cores allow."""


class CertifiedLink(msgspec.Struct, frozen=True):
    """Means of the measurements before and after the run."""

    up_goodput_mbps: float
    down_goodput_mbps: float
    rtt_ms: float
    jitter_ms: float = 0.0
    """Standard deviation of the round trip."""
    up_loss_pct: float | None = None
    """Of the probe's datagrams; None where there were none, as through a relay."""
    down_loss_pct: float | None = None
    up_udp_bps: float | None = None
    """IP packets, where packets are lost on purpose; None elsewhere."""
    down_udp_bps: float | None = None


class Preparation(msgspec.Struct, frozen=True):
    """One node's ONNX Runtime session. Zeros where the edge had it warm from an earlier run."""

    provider: str
    init_ms: float
    first_inference_ms: float


def preparation(manifest: RunManifest) -> dict[str, Preparation]:
    """By node, without one that ran no part."""
    nodes = {"device": manifest.head or {}, "edge": manifest.edge or {}}
    return {
        node: Preparation(
            facts["provider"],
            facts.get("init_ns", 0) / 1e6,
            facts.get("first_inference_ns", 0) / 1e6,
        )
        for node, facts in nodes.items()
        if facts.get("provider")
    }


def setting(manifest: RunManifest, load: Load) -> Setting:
    """What the runs that it is compared with must share."""
    # The provider as asked for: all on the device, nothing runs on any.
    asked = manifest.config
    return Setting(
        asked.get("window"),
        asked.get("threads"),
        asked.get("edge_threads"),
        asked.get("provider"),
        load.setting,
        asked.get("cpus") or None,
        asked.get("cpu_quota"),
        turns_text(asked, manifest.edge or {}),
    )


def turns_text(asked: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """`2 tails at once, up to 8 in a batch within 2 ms`, of a run's configuration.

    An edge that ran already was asked by somebody else: there it is what the edge `told`, which
    older ones do not.
    """
    said, wait_ms = asked, asked.get("batch_wait_ms")
    if asked.get("edge"):
        said, wait_ms = told, told.get("batch_wait_ms")
    elif wait_ms is None:
        wait_ms = BATCH_WAIT_MS
    parts = []
    if said.get("tails"):
        parts.append(f"{said['tails']} {'tail' if said['tails'] == 1 else 'tails'} at once")
    if (said.get("batch") or 1) > 1:
        within = "" if wait_ms is None else f" within {wait_ms:g} ms"
        parts.append(f"up to {said['batch']} in a batch{within}")
    return ", ".join(parts)


def certified(certificate: LinkCertificate) -> CertifiedLink:
    """The certificate as a report shows it."""
    return CertifiedLink(
        certificate.up_goodput_bps / 1e6,
        certificate.down_goodput_bps / 1e6,
        certificate.rtt_ns / 1e6,
        certificate.rtt_sd_ns / 1e6,
        certificate.loss_pct("up"),
        certificate.loss_pct("down"),
        certificate.udp_bps("up"),
        certificate.udp_bps("down"),
    )


def codec_text(manifest: RunManifest) -> str:
    """As the person wrote it; as it was agreed where nobody did, or where tensors differ."""
    codecs = [msgspec.convert(item, TensorCodec) for item in manifest.codecs]
    agreed = list(dict.fromkeys(codec.written(item) for item in codecs))
    asked = manifest.codec or str(manifest.config.get("codec", ""))
    return asked if asked and len(agreed) < 2 else ", ".join(agreed)
