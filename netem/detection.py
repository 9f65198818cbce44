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
from netem.interface import Interface
from netem.namespace import Namespace
from netem.tc import ROOT, TrafficControl
from splitbed.errors import LinkError, UsageError
from splitbed.link import Direction

TRIED: Final = "splitbed-try"
"""How the names of interfaces begin that are made for trying alone."""
_TRIED_IFB: Final = f"{TRIED}2"
_LOOPBACK_INDEX: Final = 1


def hosts_lack() -> str:
    """What stands in the way of two hosts on this machine, as a clause; "" for nothing."""
    with contextlib.ExitStack() as stack:
        try:
            pair = [stack.enter_context(contextlib.closing(Namespace())) for _ in range(2)]
            interfaces.join(pair[0], pair[1], TRIED, ("10.83.98.1", "10.83.98.2"), 30)
            with pair[0].entered():
                missing = _missing_queues(interfaces.find(TRIED).index)
        except (LinkError, UsageError) as error:
            return str(error)
    return interfaces.lack_of(missing)


def interface_lacks(both: bool) -> str:
    """What stands in the way of shaping an interface of this host, as a clause; "" for nothing.

    `both`: whether what it receives is to be shaped as well, which takes ifb.
    """
    try:
        interfaces.need_package()
        with _somewhere() as index:
            missing = [] if index is None else _missing_queues(index)
            if both and not missing:
                missing = _missing_for_ingress()
    except (LinkError, UsageError) as error:
        return str(error)
    return interfaces.lack_of(missing)


@contextlib.contextmanager
def _somewhere() -> Iterator[int | None]:
    """The index of an interface that nobody uses; None where this kernel can make none.

    Then the interface that is to be shaped will show whether it can be.
    """
    try:
        namespace = Namespace()
    except LinkError:  # a container may have CAP_NET_ADMIN and yet make no namespace
        with _scratch("dummy", "ifb") as made:
            yield None if made is None else made.index
        return
    with contextlib.closing(namespace), namespace.entered():
        yield _LOOPBACK_INDEX


@contextlib.contextmanager
def _scratch(*kinds: str, name: str = TRIED) -> Iterator[Interface | None]:
    """An interface of the first of these kinds that the kernel has; None where it has none."""
    interfaces.remove(name)  # left by one that was killed
    try:
        yield next(filter(None, (interfaces.make(kind, name) for kind in kinds)), None)
    finally:
        with contextlib.suppress(LinkError):
            interfaces.remove(name)


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
                    code, doing = error.errno or 0, f"try {kind}"
                    raise interfaces.refusal(doing, code, or_relay=True) from error
                missing.append(module)
    return missing


def _missing_for_ingress() -> list[str]:
    with _scratch("ifb", name=_TRIED_IFB) as made:
        if made is None:
            return ["ifb"]
        try:
            interfaces.redirect(made, made)
        except LinkError:  # the queues could be made, so it is no privilege that is missing
            return ["sch_ingress", "cls_matchall", "act_mirred"]
    return []
