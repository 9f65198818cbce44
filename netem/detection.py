"""Whether this kernel, and this process in it, can shape a link: found out by trying.

What is tried is tried where it disturbs nobody, in a network namespace of its own where this
process may make one and else on an interface of its own, and is gone afterwards.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from netem import interface as interfaces
from netem import qdisc_options
from netem.namespace import Namespace
from netem.tc import ROOT, TrafficControl
from splitbed.errors import LinkError
from splitbed.link import Direction

_TRIED: Final = "splitbed-try"
_LOOPBACK_INDEX: Final = 1


def hosts_lack() -> str:
    """What stands in the way of two hosts on this machine, as a clause; "" for nothing."""
    with contextlib.ExitStack() as stack:
        try:
            pair = [stack.enter_context(contextlib.closing(Namespace())) for _ in range(2)]
            interfaces.join(pair[0], pair[1], _TRIED, ("10.83.98.1", "10.83.98.2"), 30)
            with pair[0].entered():
                missing = _missing_queues(interfaces.find(_TRIED).index)
        except LinkError as error:
            return str(error)
    return _sentence(missing)


def interface_lacks(both: bool) -> str:
    """What stands in the way of shaping an interface of this host, as a clause; "" for nothing.

    `both`: whether what it receives is to be shaped as well, which takes ifb.
    """
    try:
        with _somewhere() as index:
            missing = _missing_queues(index)
            if both and not missing:
                missing = _missing_for_ingress()
    except LinkError as error:
        return str(error)
    return _sentence(missing)


def _sentence(missing: list[str]) -> str:
    if not missing:
        return ""
    return (
        f"this kernel has no {' and '.join(missing)}: load it with `modprobe -a "
        f"{' '.join(missing)}`, where the distribution packs it apart install its extra modules, "
        "or use --backend relay"
    )


@contextlib.contextmanager
def _somewhere() -> Iterator[int]:
    """The index of an interface that nobody uses."""
    try:
        namespace = Namespace()
    except LinkError:  # a container may have CAP_NET_ADMIN and yet make no namespace
        try:
            yield interfaces.make_ifb(_TRIED).index
        finally:
            with contextlib.suppress(LinkError):
                interfaces.remove(_TRIED)
        return
    with contextlib.closing(namespace), namespace.entered():
        yield _LOOPBACK_INDEX


def _missing_queues(index: int) -> list[str]:
    tries = {
        "sch_tbf": ("tbf", qdisc_options.bucket(1_000_000, 3000)),
        "sch_netem": ("netem", qdisc_options.netem(Direction(delay_ns=1), 10, 0)),
    }
    missing = []
    with TrafficControl() as control:
        for module, (kind, options) in tries.items():
            try:
                control.replace(index, ROOT, 0x10000, kind, options)
                control.delete(index, ROOT)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise interfaces.refusal(f"try {kind}", error.errno or 0) from error
                missing.append(module)
    return missing


def _missing_for_ingress() -> list[str]:
    name = f"{_TRIED}2"
    try:
        made = interfaces.make_ifb(name)
    except LinkError:  # the queues could be made, so it is no privilege that is missing
        return ["ifb"]
    try:
        interfaces.redirect(made, made)
    except LinkError:
        return ["sch_ingress", "cls_matchall", "act_mirred"]
    finally:
        interfaces.remove(name)
    return []
