"""Interfaces of the current network namespace: what they are, what sits on them, their offloads.

All of it through pyroute2, whose errors become LinkError here.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from netem.namespace import Namespace
from netem.qdisc import ETHERNET_BYTES, HANDLES
from splitbed.errors import LinkError, UsageError

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_ETHER_TYPE: Final = 1
_LOOPBACK_TYPE: Final = 772
_INGRESS_MAJOR: Final = 0xFFFF0000
_ALL_PROTOCOLS: Final = 0x0003
_FILTER_PREFERENCE: Final = 0x5B1D
"""By which our own redirection is known."""
_OR_RELAY: Final = ", or use --backend relay"
_OFFLOADS: Final = ("tx-tcp-segmentation", "tx-generic-segmentation", "rx-gro")


class Interface(msgspec.Struct, frozen=True):
    """One interface."""

    name: str
    index: int
    kind: str
    """The kernel's word for a virtual one, as `veth`; "" for hardware."""
    mtu_bytes: int
    header_bytes: int
    """Size of the link header that the kernel counts with each packet."""


class Queueing(msgspec.Struct, frozen=True):
    """One queueing discipline on an interface."""

    kind: str
    handle: int
    parent: int
    bytes: int
    packets: int
    dropped: int
    waiting: int
    """Packets in it now; with netem, those that travel as well."""

    @property
    def is_ours(self) -> bool:
        """Whether splitbed put it there."""
        return self.handle in HANDLES


def need_package(or_relay: bool = True) -> None:
    """Raise UsageError where pyroute2 is not installed."""
    try:
        import pyroute2  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            "the kernel's links need the package pyroute2: pip install 'splitbed[link]'"
            + _OR_RELAY * or_relay
        ) from error


@contextlib.contextmanager
def routing(doing: str, or_relay: bool = False) -> Iterator[IPRoute]:
    """A pyroute2 socket; what goes wrong is told as "cannot DOING: ...".

    `or_relay`: a link is being made, for which the other backend would do.
    """
    need_package(or_relay)
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise refusal(doing, error.code, or_relay=or_relay) from error
    except OSError as error:
        raise refusal(doing, error.errno or 0, error.strerror or "", or_relay) from error


def refusal(doing: str, code: int, words: str = "", or_relay: bool = False) -> LinkError:
    """The kernel's refusal as one sentence."""
    if code in (errno.EPERM, errno.EACCES):
        return LinkError(f"cannot {doing}: that takes root (CAP_NET_ADMIN)" + _OR_RELAY * or_relay)
    return LinkError(f"cannot {doing}: {words or os.strerror(code)}")


def lack_of(modules: Sequence[str]) -> str:
    """What to do where this kernel has not these modules, as a clause; "" for none."""
    if not modules:
        return ""
    return (
        f"this kernel has no {' and '.join(modules)}: load it with `modprobe -a "
        f"{' '.join(modules)}`, where the distribution packs it apart install its extra modules"
        + _OR_RELAY
    )


def find(name: str) -> Interface:
    """The interface of that name. Raises LinkError where there is none."""
    with routing(f"look at interface {name}") as route:
        links = {link.get_attr("IFLA_IFNAME"): link for link in route.get_links()}
    if name not in links:
        raise LinkError(f"there is no interface '{name}' here (there are: {', '.join(links)})")
    link = links[name]
    info = link.get_attr("IFLA_LINKINFO")
    has_header = link["ifi_type"] in (_ETHER_TYPE, _LOOPBACK_TYPE)
    return Interface(
        name=name,
        index=link["index"],
        kind=(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
        mtu_bytes=link.get_attr("IFLA_MTU") or 0,
        header_bytes=ETHERNET_BYTES if has_header else 0,
    )


def is_there(interface: Interface) -> bool:
    """Whether it is still the one of that name."""
    with routing(f"look at interface {interface.name}") as route:
        return interface.index in route.link_lookup(ifname=interface.name)


def names() -> list[str]:
    """Every interface of this namespace."""
    with routing("list the interfaces") as route:
        return [link.get_attr("IFLA_IFNAME") for link in route.get_links()]


def of_default_route() -> str:
    """The interface through which this host reaches the world. Raises LinkError without one."""
    with routing("look for the default route") as route:
        for found in route.get_default_routes():
            index = found.get_attr("RTA_OIF")
            if index:
                return str(route.get_links(index)[0].get_attr("IFLA_IFNAME"))
    raise LinkError("this host has no default route: name the interface with --interface")


def queueing(interface: Interface) -> list[Queueing]:
    """What sits on an interface, the kernel's defaults included."""
    with routing(f"look at the queues of {interface.name}") as route:
        return [_queueing(found) for found in route.get_qdiscs(index=interface.index)]


def _queueing(found: Any) -> Queueing:
    stats = found.get_attr("TCA_STATS2")
    basic = (stats and stats.get_attr("TCA_STATS_BASIC")) or {}
    queue = (stats and stats.get_attr("TCA_STATS_QUEUE")) or {}
    return Queueing(
        kind=found.get_attr("TCA_KIND"),
        handle=found["handle"],
        parent=found["parent"],
        bytes=basic.get("bytes", 0),
        packets=basic.get("packets", 0),
        dropped=queue.get("drops", 0),
        waiting=queue.get("qlen", 0),
    )


def make(kind: str, name: str) -> Interface | None:
    """A new virtual interface, up; None where this kernel has none of that kind."""
    with routing(f"make the interface {name} (module {kind})", or_relay=True) as route:
        if not _added(route, ifname=name, kind=kind):
            return None
        route.link("set", index=route.link_lookup(ifname=name)[0], state="up")
    return find(name)


def make_ifb(name: str) -> Interface:
    """A new intermediate functional block, up: what is redirected to it passes its queues."""
    made = make("ifb", name)
    if made is None:
        raise LinkError(lack_of(["ifb"]))
    return made


def _added(route: IPRoute, **link: Any) -> bool:
    """Add an interface; False where this kernel has none of that kind."""
    from pyroute2 import NetlinkError

    try:
        route.link("add", **link)
    except NetlinkError as error:
        if error.code != errno.EOPNOTSUPP:
            raise
        return False
    return True


def join(
    device: Namespace, edge: Namespace, name: str, addresses: tuple[str, str], prefix_bits: int
) -> None:
    """Two namespaces on one wire: a veth pair, an end of the same name in each, all up."""
    doing = "make a veth pair (module veth)"
    with device.entered(), routing(doing, or_relay=True) as route, open(edge.path, "rb") as other:
        peer = {"ifname": name, "net_ns_fd": other.fileno()}
        if not _added(route, ifname=name, kind="veth", peer=peer):
            raise LinkError(lack_of(["veth"]))
    for namespace, address in zip((device, edge), addresses, strict=True):
        with namespace.entered(), routing(doing, or_relay=True) as route:
            index = route.link_lookup(ifname=name)[0]
            route.addr("add", index=index, address=address, prefixlen=prefix_bits)
            for one in (index, *route.link_lookup(ifname="lo")):
                route.link("set", index=one, state="up")


def remove(name: str) -> None:
    """Take an interface away; fine if it is not there."""
    with routing(f"remove the interface {name}") as route:
        for index in route.link_lookup(ifname=name):
            route.link("del", index=index)


def redirect(source: Interface, sink: Interface) -> None:
    """Send whatever comes in at `source` through the queues of `sink` first."""
    doing = f"redirect what comes in at {source.name} (modules sch_ingress, act_mirred)"
    with routing(doing, or_relay=True) as r:
        r.tc("add", "ingress", index=source.index, handle=_INGRESS_MAJOR)
        r.tc(
            "add-filter",
            "matchall",
            source.index,
            parent=_INGRESS_MAJOR,
            protocol=_ALL_PROTOCOLS,
            prio=_FILTER_PREFERENCE,
            action={
                "kind": "mirred",
                "direction": "egress",
                "action": "redirect",
                "ifindex": sink.index,
            },
        )


def is_redirected(source: Interface, begun: bool) -> bool:
    """Whether our own redirection is in place.

    `begun`: an ifb of ours waits for it. Then an ingress that leads nowhere is ours, too: whoever
    made it was killed before it could lead anywhere.
    """
    with routing(f"look at what comes in at {source.name}") as route:
        found = [q for q in route.get_qdiscs(source.index) if q["handle"] == _INGRESS_MAJOR]
        if not found:
            return False
        filters = list(route.get_filters(index=source.index, parent=_INGRESS_MAJOR))
        if not filters:  # those of a clsact are not listed here
            return begun and found[0].get_attr("TCA_KIND") == "ingress"
        return any(each["info"] >> 16 == _FILTER_PREFERENCE for each in filters)


def stop_redirecting(source: Interface) -> None:
    """Undo `redirect`."""
    with routing(f"stop redirecting what comes in at {source.name}") as route:
        route.tc("del", "ingress", index=source.index, handle=_INGRESS_MAJOR)


def offloads(interface: Interface) -> dict[str, bool]:
    """Which segmentation offloads are on; {} where the driver does not say."""
    from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool

    try:
        with contextlib.closing(IoctlEthtool(interface.name)) as ethtool:
            features = ethtool.get_features()
            return {name: bool(features[name]) for name in _OFFLOADS if name in features}
    except (EthtoolError, OSError, LookupError):
        return {}


def switch_offloads(interface: Interface, wanted: dict[str, bool]) -> bool:
    """Switch segmentation offloads; False where the kernel does not allow it."""
    from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool

    try:
        with contextlib.closing(IoctlEthtool(interface.name)) as ethtool:
            features = ethtool.get_features()
            for name, on in wanted.items():
                features[name] = on
            ethtool.set_features(features)
    except (EthtoolError, OSError, LookupError):
        return False
    return offloads(interface) == wanted
