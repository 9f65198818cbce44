"""Addresses as people write them."""

from __future__ import annotations

import pytest

from splitbed.address import host_and_port, written
from splitbed.errors import UsageError


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("localhost:80", ("localhost", 80)),
        ("[::1]:0", ("::1", 0)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
    ],
)
def test_host_and_port(text: str, pair: tuple[str, int]) -> None:
    assert host_and_port(text) == pair


@pytest.mark.parametrize("text", ["", ":", ":80", "a", "a:", "a:b", "a:-1", "a:65536", "a:1 "])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is no address: write host:port"):
        host_and_port(text)


@pytest.mark.parametrize("text", ["::1", "fe80::1:80"])
def test_an_ipv6_address_without_brackets_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        host_and_port(text)


@pytest.mark.parametrize("text", ["localhost:80", "[::1]:0", "10.0.0.1:65535"])
def test_written_is_the_inverse(text: str) -> None:
    assert written(*host_and_port(text)) == text
