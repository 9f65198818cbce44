"""An edge and pictures for the tests of both nodes; a file that needs others has its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitbed.transport import Transport
from tests.unit.edges import Edge, drawn_pictures, edge_over, model_folder, transport_to


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge over the tiny model, without a network in front of it."""
    with edge_over(model_folder(tmp_path_factory.mktemp("edge") / "models")) as made:
        yield made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three pictures of noise for the tiny model."""
    return drawn_pictures(tmp_path_factory.mktemp("pictures"), 3)


@pytest.fixture(params=["in-process", "grpc"])
def transport(request: pytest.FixtureRequest, edge: Edge) -> Iterator[Transport]:
    """Both ways to the edge, one after the other."""
    with transport_to(edge, request.param) as made:
        yield made


@pytest.fixture
def _own_signals() -> Iterator[None]:
    """`main` takes over signals; give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
