"""Making a strong machine stand in for a weak device: fewer cores, a share of a core (Linux)."""

from splitbed.limits.affinity import parse_cpus, usable_cpus
from splitbed.limits.held import HeldLimits, Limits
from splitbed.limits.quota import check_quota, sweep

__all__ = ["HeldLimits", "Limits", "check_quota", "parse_cpus", "sweep", "usable_cpus"]
