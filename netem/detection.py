"""Whether this kernel, and this process in it, can shape a link: found out by trying."""

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


def kernel_lacks(both: bool) -> str:
    """What stands in the way of shaping with the kernel, as a clause; "" for nothing.

    `both`: whether what an interface receives is to be shaped as well, which takes ifb. Whatever is
    tried is tried where it disturbs nobody, in a network namespace of its own where this process
    may make one and otherwise on an interface of its own, and gone afterwards.
    """
    try:
        with _somewhere() as index:
            missing = _missing(index, both)
    except LinkError as error:
        return str(error)
    if not missing:
        return ""
    modules = " and ".join(missing)
    return (
        f"this kernel has no {modules}: load it with `modprobe -a {' '.join(missing)}`, where the "
        f"distribution packs it apart install its extra modules, or use --backend relay"
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
    try:
        with namespace.entered():
            yield _LOOPBACK_INDEX
    finally:
        namespace.close()


def _missing(index: int, both: bool) -> list[str]:
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
    if both and not missing:
        missing += _missing_for_ingress()
    return missing


def _missing_for_ingress() -> list[str]:
    name = f"{_TRIED}2"
    try:
        made = interfaces.make_ifb(name)
    except LinkError as error:
        if "root" in str(error):
            raise
        return ["ifb"]
    try:
        interfaces.redirect(made, made)
    except LinkError:
        return ["sch_ingress", "cls_matchall", "act_mirred"]
    finally:
        interfaces.remove(name)
    return []
