"""One interface shaped by the kernel: put on, changed, shown, taken away.

What an interface sends passes its own queues; what it receives is redirected through an `ifb`. So a
host shapes its own direction of a link, or both of them alone: an edge for a phone without root.

A record of each shaped interface lies in /run/splitbed (`Record`), with what is to be restored and
who holds it. A later process finds there what an earlier one could not take away.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from netem import interface as interfaces
from netem import records
from netem.detection import TRIED
from netem.interface import Interface, Queueing
from netem.qdisc import PACKET_BYTES, Port, Queue, queue_packets
from netem.records import Record
from netem.tc import ROOT, TrafficControl
from splitbed.errors import LinkError
from splitbed.link import Direction

_IFB: Final = "splitbed"


class Asked(msgspec.Struct, frozen=True):
    """What an interface is to do."""

    sends: Direction
    receives: Direction | None = None
    """None leaves what comes in alone: the other end shapes it."""
    rtt_ns: int = 0
    """Round trip of the whole link, for the queues' lengths."""
    peaks_bps: tuple[int | None, int | None] = (None, None)
    """Highest rates that a replay comes to (sent, received): queues are sized for them."""
    name: str = ""
    """The profile's name, for people."""


class Shaped(msgspec.Struct, frozen=True):
    """What sits on an interface."""

    record: Record | None
    """None where nobody wrote down who put it there."""
    sends: tuple[Queueing, ...]
    """By rising handle: the bucket that cuts, the one with the rate, netem."""
    receives: tuple[Queueing, ...]

    @property
    def is_shaped(self) -> bool:
        """Whether there is anything of ours."""
        return bool(self.sends or self.receives)


class Shaping:
    """Holds one interface shaped, in the network namespace of the thread that makes it.

    Raises LinkError where the interface is not there or shaped by somebody else, and where the
    kernel lacks what is asked. Made again over what a process left behind that is gone (`stale`
    says whose), and refused over what a living one holds. `recorded` is for interfaces that outlive
    this process.
    """

    def __init__(self, name: str, asked: Asked, seed: int = 0, recorded: bool = True) -> None:
        self.stale = clear(name)
        """A clause about what an earlier process had left; "" for nothing."""
        own = self._interface = interfaces.find(name)  # as it is once that is restored
        _refuse_strangers(own, asked.receives is not None)
        self._before, self._recorded = interfaces.offloads(own), recorded
        self.settings: dict[str, str] = {}
        """What was set besides, for the record."""
        if recorded:
            records.write(Record.of_this_process(own.name, asked.name, self._before))
        self._control = TrafficControl()
        try:
            self._switch_offloads()
            self._queues = _Queues(self._control, own, seed, is_new=True)
            if asked.receives is not None:
                interfaces.make_ifb(ifb_name(own))
            self.change(asked)
            if asked.receives is not None:
                interfaces.redirect(own, interfaces.find(ifb_name(own)))
        except BaseException:
            self.close()
            raise

    def _switch_offloads(self) -> None:
        """Off where the interface is a virtual one; hardware's are left as they are."""
        own, was_on = self._interface, self._before
        off = dict.fromkeys(was_on, False)
        is_off = bool(own.kind) and interfaces.switch_offloads(own, off)
        on = ", ".join(name for name, is_on in was_on.items() if is_on) or "none"
        self.settings[f"offloads of {own.name}"] = (
            f"switched off; were on: {on}" if is_off else f"left as they are, on: {on}"
        )

    def change(self, asked: Asked) -> None:
        """Other figures for each direction, while it runs; what is queued stays queued."""
        self.settings[f"queues of {self._interface.name}"] = self._queues.put(asked)

    def change_rates(self, sends_bps: int | None, receives_bps: int | None) -> None:
        """The rates alone, as a trace changes them."""
        self._queues.put_rates(sends_bps, receives_bps)

    def close(self) -> None:
        """Take everything away and restore what was there. Calling it twice is fine."""
        self._control.close()
        own = self._interface
        record = records.read(own.name) if self._recorded else None
        if record is not None and not record.is_of_this_process:
            return  # ours was cleared by force, and what is there now is somebody else's
        try:
            if interfaces.is_there(own):
                clear(own.name)
                if not self._recorded:  # else that has restored them
                    interfaces.switch_offloads(own, self._before)
        finally:  # an interface that goes, at this moment even, takes neither of these with it
            interfaces.remove(ifb_name(own))
            if self._recorded and not interfaces.is_there(own):
                records.forget(own.name)


class _Queues:
    """Both directions at one interface: its own queues, and those of its ifb if there is one."""

    def __init__(self, control: TrafficControl, own: Interface, seed: int, is_new: bool) -> None:
        self._own, self._control, self._seed, self._is_new = own, control, seed, is_new
        mtu_bytes = own.mtu_bytes or PACKET_BYTES
        self._port = Port(own.name, own.index, mtu_bytes, own.header_bytes)
        self._sends = Queue(control, self._port, seed, is_new)
        self._receives: Queue | None = None

    def put(self, asked: Asked) -> str:
        """Install or change; the queues' lengths as a clause."""
        sent = _queue_packets(asked.sends, asked.peaks_bps[0], asked.rtt_ns)
        lengths = f"{sent} packets out"
        try:
            self._sends.put(asked.sends, sent)
            if asked.receives is not None:
                received = _queue_packets(asked.receives, asked.peaks_bps[1], asked.rtt_ns)
                self._ingress().put(asked.receives, received)
                lengths += f", {received} in"
        except OSError as error:
            raise interfaces.refusal(
                f"shape {self._own.name}",
                error.errno or 0,
                error.strerror or "",
                or_relay=self._is_new,
            ) from error
        return lengths

    def put_rates(self, sends_bps: int | None, receives_bps: int | None) -> None:
        self._sends.put_rate(sends_bps)
        if self._receives is not None:
            self._receives.put_rate(receives_bps)

    def _ingress(self) -> Queue:
        if self._receives is None:
            ifb = interfaces.find(ifb_name(self._own))
            port = msgspec.structs.replace(self._port, name=ifb.name, index=ifb.index)
            self._receives = Queue(self._control, port, self._seed + 1, self._is_new)
        return self._receives


def _queue_packets(direction: Direction, peak_bps: int | None, rtt_ns: int) -> int:
    if peak_bps is not None:
        direction = msgspec.structs.replace(direction, rate_bps=peak_bps)
    return queue_packets(direction, rtt_ns)


def ifb_name(own: Interface) -> str:
    """The name of the ifb through which we lead what comes in at an interface."""
    return f"{_IFB}{own.index}"


def is_ifb(name: str) -> bool:
    """Whether an interface is such an ifb."""
    return name.startswith(_IFB) and name.removeprefix(_IFB).isdigit()


def change(name: str, asked: Asked) -> None:
    """Other figures for an interface that some process holds shaped; its record follows.

    Raises LinkError where it is not shaped, or only one way and both are asked for.
    """
    own, found = interfaces.find(name), show(name)
    if not found.sends:
        raise LinkError(f"{name} is not shaped by splitbed: use `splitbed link apply` first")
    if asked.receives is not None and not found.receives:
        raise LinkError(
            f"{name} is shaped in one direction only: end that `splitbed link apply`, and give it "
            "--both"
        )
    with TrafficControl() as control:
        _Queues(control, own, 0, is_new=False).put(asked)
    if found.record is not None:
        records.write(msgspec.structs.replace(found.record, profile=asked.name))


def clear(name: str, whoever: bool = False) -> str:
    """Take away what splitbed put on an interface; a clause about whose it was, "" for nothing.

    Raises LinkError where a living process holds it, unless `whoever`.
    """
    own = interfaces.find(name)
    record = records.read(name)
    ours = [queue for queue in interfaces.queueing(own) if queue.is_ours]
    ifb = ifb_name(own)
    has_ifb = ifb in interfaces.names()
    redirected = interfaces.is_redirected(own, begun=has_ifb)
    if record is None and not ours and not redirected and not has_ifb:
        return ""
    if record is not None and record.is_held and record.pid != os.getpid() and not whoever:
        raise LinkError(
            f"{name} is shaped to '{record.profile}' by process {record.pid}, which is running: "
            "end that first, or `splitbed link change` it"
        )
    if redirected:
        interfaces.stop_redirecting(own)
    interfaces.remove(ifb)
    if ours:
        _remove_queues(own)
    if record is not None:
        if record.offloads:
            interfaces.switch_offloads(own, record.offloads)
        records.forget(name)
        return f"'{record.profile}' on {name} of process {record.pid}, begun {record.begun_utc}"
    return f"queues of splitbed on {name}, of which nobody left a record"


def _remove_queues(own: Interface) -> None:
    try:
        with TrafficControl() as control:
            control.delete(own.index, ROOT)
    except OSError as error:
        doing = f"take the queues of {own.name} away"
        raise interfaces.refusal(doing, error.errno or 0, error.strerror or "") from error


def clear_all(names: tuple[str, ...] = (), whoever: bool = False) -> list[str]:
    """Clear the interfaces named, or all in this namespace; a clause for each that was shaped."""
    done = [] if names else _clear_leftovers()
    there = names or interfaces.names()
    done += [clear(name, whoever) for name in there if not is_ifb(name)]
    return [clause for clause in done if clause]


def _clear_leftovers() -> list[str]:
    """What belongs to no interface: where something was tried, and ifbs of what is gone."""
    there, done = interfaces.names(), []
    indices = {interfaces.find(name).index for name in there}
    for name in there:
        if name.startswith(TRIED):
            done.append(f"{name}, left by an attempt to shape")
        elif is_ifb(name) and int(name.removeprefix(_IFB)) not in indices:
            done.append(f"{name}, whose interface is gone")
        else:
            continue
        interfaces.remove(name)
    return done


def show(name: str) -> Shaped:
    """What splitbed has on an interface, with what passed so far."""
    own = interfaces.find(name)
    ifb = ifb_name(own)
    receives: tuple[Queueing, ...] = ()
    if ifb in interfaces.names():
        receives = tuple(q for q in interfaces.queueing(interfaces.find(ifb)) if q.is_ours)
    sends = tuple(queue for queue in interfaces.queueing(own) if queue.is_ours)
    sends, receives = (tuple(sorted(s, key=lambda q: q.handle)) for s in (sends, receives))
    return Shaped(records.read(name), sends, receives)


def _refuse_strangers(own: Interface, both: bool) -> None:
    for queue in interfaces.queueing(own):
        comes_in = queue.kind in ("ingress", "clsact")
        # What the kernel puts there by itself has no number; what somebody put there has one.
        if queue.is_ours or not queue.handle >> 16 or (comes_in and not both):
            continue
        place = queue.kind if comes_in else "root"
        raise LinkError(
            f"{own.name} is shaped already, by somebody else's '{queue.kind}' "
            f"{queue.handle >> 16:x}: (`tc qdisc del dev {own.name} {place}` would take it away); "
            "use another interface, or --backend relay"
        )
