"""Certificates and tokens, checked before gRPC gets them: it says little of what is wrong."""

from __future__ import annotations

import ssl
from pathlib import Path

from splitbed.transport.grpc_settings import TOKEN_HEADER

# isort: split
import grpc

from splitbed.errors import UsageError


def server_credentials(chain: Path, key: Path) -> grpc.ServerCredentials:
    """An edge's certificate chain and private key, both PEM; UsageError says what is wrong."""
    chain_pem, key_pem = _content(chain), _content(key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(
            f"{chain} and {key} are no certificate chain and unencrypted private key in PEM that "
            f"belong together: {_reason(error)}"
        ) from error
    return grpc.ssl_server_credentials([(key_pem, chain_pem)])


def channel_credentials(roots: Path) -> grpc.ChannelCredentials:
    """What the edge's certificate must be signed by, PEM; UsageError says what is wrong."""
    pem = _content(roots)
    try:
        ssl.create_default_context(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(f"{roots} is no certificate in PEM: {_reason(error)}") from error
    return grpc.ssl_channel_credentials(pem)


def token_metadata(token: str) -> tuple[tuple[str, str], ...]:
    """What goes with every call; UsageError for a token that no header can carry."""
    if not token:
        return ()
    if not (token.isascii() and token.isprintable()):
        raise UsageError(
            "the token has characters that a header cannot carry: use printable ASCII, on one line"
        )
    return ((TOKEN_HEADER, f"Bearer {token}"),)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {path} ({error.strerror}): --tls-cert, --tls-key and --tls-ca name PEM "
            "files"
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error) or type(error).__name__
