"""What limits this process, put on and off together."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import msgspec

from splitbed.limits import affinity, quota


class Limits(msgspec.Struct, frozen=True):
    """What was asked for; nothing of it by default."""

    cpus: str = ""
    """Cores, as in `0,2-3`."""
    cpu_quota: float | None = None
    """Share of one core; 2.5 is two and a half."""

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return bool(self.cpus) or self.cpu_quota is not None


class HeldLimits:
    """Limits of this process, while the context lasts. UsageError where they cannot be held.

    The quota's group is removed at the end; after a kill, by `quota.sweep`.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._cpus: frozenset[int] | None = None
        self._before: frozenset[int] = frozenset()
        self._group: quota.Group | None = None
        if limits.cpus:
            self._cpus, self._before = affinity.usable_cpus(limits.cpus), affinity.usable()
            affinity.hold(self._cpus)
        if limits.cpu_quota is not None:
            try:
                quota.check_quota(limits.cpu_quota)
                self._group = quota.enter(limits.cpu_quota)
            except BaseException:
                self.close()
                raise

    def lift(self) -> None:
        """Work as if there were no limits, for a comparison."""
        if self._cpus is not None:
            affinity.hold(self._before)
        if self._group is not None:
            quota.lift(self._group)

    def hold(self) -> None:
        """Work under the limits again."""
        if self._cpus is not None:
            affinity.hold(self._cpus)
        if self._group is not None:
            quota.hold(self._group)

    @property
    def period_s(self) -> float:
        """Within which the quota is given out anew; 0 without one."""
        return 0.0 if self._group is None else self._group.period_us / 1e6

    def facts(self) -> dict[str, Any]:
        """For the record; empty without limits."""
        found: dict[str, Any] = {}
        if self._cpus is not None:
            found["cpus"] = sorted(self._cpus)
        if self._group is not None:
            found |= {"cpu_quota": self._limits.cpu_quota, "held_by": self._group.described}
        return found

    def close(self) -> None:
        """No limits any more. Calling it twice is fine."""
        if self._group is not None:
            quota.leave(self._group)
            self._group = None
        if self._cpus is not None:
            affinity.hold(self._before)
            self._cpus = None

    def __enter__(self) -> HeldLimits:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
