"""Certificates and tokens, and what is wrong with them: gRPC itself says little of that."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from splitbed.transport.grpc_settings import TOKEN_HEADER

# isort: split
import grpc

from splitbed.address import host_and_port
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


def why_no_edge(address: str, roots: Path | None, patience_s: float) -> str:
    """A sentence for an edge to which no connection came about, after one more look at it."""
    tls = " with TLS" if roots else ""
    try:
        host, port = host_and_port(address)
        sock = socket.create_connection((host, port), 2)
    except socket.gaierror as error:
        return (
            f"no machine is known by the name of the edge at {address} ({error.strerror}): check "
            "the name, or give a numeric address"
        )
    except (OSError, UsageError):
        return (
            f"no edge answers{tls} at {address} within {patience_s:g} s: start one with "
            "`python -m edge_node`, or check the address and the firewall"
        )
    if roots is None:
        sock.close()
        return (
            f"something answers at {address}, but not as an edge without TLS: check the address, "
            "or give --tls-ca if it is an edge with TLS"
        )
    try:
        context = ssl.create_default_context(cafile=str(roots))
        with sock, context.wrap_socket(sock, server_hostname=host):
            reason = "it is no edge"
    except ssl.SSLCertVerificationError as error:
        return (
            f"the certificate at {address} is not one that {roots} vouches for "
            f"({error.verify_message}): give the CA that signed it, and dial a name that it holds"
        )
    except OSError as error:
        reason = _reason(error)
    return (
        f"something answers at {address}, but not as an edge with TLS ({reason}): check the "
        "address, or leave out --tls-ca if the edge has no TLS"
    )


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
