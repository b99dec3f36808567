"""How many CPU cores this process may use, asked of the system: affinity, and the share that a container was given."""

import math
import os
from pathlib import Path

# Where the kernel tells a process of its share of CPU time: control groups version 2, and version 1.
_CGROUP = Path("/sys/fs/cgroup")


def count_cores() -> int:
    """Return the number of CPU cores this process may keep busy, at least 1.

    Those it may run on, or fewer where a container's limit (``docker run --cpus 2``) gives it less time than these.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:
        # macOS and Windows have no affinity.
        allowed = os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _container_share())))


def _container_share() -> float:
    """CPU time a second that the control group grants; infinite without a limit."""
    try:
        share, span = (_CGROUP / "cpu.max").read_text().split()
        return math.inf if share == "max" else int(share) / int(span)
    except (OSError, ValueError):
        pass
    try:
        quota, period = (int((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 and period > 0 else math.inf
    except (OSError, ValueError):
        return math.inf
