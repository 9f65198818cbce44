"""Addresses as people write them: `host:port`, `[::1]:port`."""

from __future__ import annotations

from splitbed.errors import UsageError


def host_and_port(text: str) -> tuple[str, int]:
    """`host:port` as a pair; UsageError for anything else."""
    host, colon, port = text.rpartition(":")
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or not host or bare or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"'{text}' is no address: write host:port, or [::1]:port")
    return host.strip("[]"), int(port)


def written(host: str, port: int) -> str:
    """The inverse: a host with colons in it gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
