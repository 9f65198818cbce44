"""Tests on the real queueing disciplines: root and a kernel with netem, else they skip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from netem import interface as interfaces
from netem.detection import hosts_lack, interface_lacks
from netem.namespace import Namespace

LACKS = (hosts_lack() or interface_lacks(both=True)).partition(":")[0]
WIRE = "wire"
DEVICE, EDGE = "10.9.8.1", "10.9.8.2"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.netem)
            if LACKS:
                item.add_marker(pytest.mark.skip(reason=LACKS))


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """A device's and an edge's namespace with a bare wire between them."""
    device, edge = Namespace(), Namespace()
    interfaces.join(device, edge, WIRE, (DEVICE, EDGE), 30)
    yield device, edge
    device.close()
    edge.close()
