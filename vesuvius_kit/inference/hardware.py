"""How many CPU cores and how much memory this process may use, asked of the system and of the container it runs in."""

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


def count_free_bytes() -> int:
    """Return the bytes of main memory that this process may still take: what is free, or what its container's limit leaves."""
    # Here, since the command line imports this module where nothing but Python and YAML is there.
    import psutil

    return int(min(psutil.virtual_memory().available, _container_room()))


def _container_room() -> float:
    """Bytes below the limit of the control group; infinite without a limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most = (_CGROUP / limit).read_text().strip()
            return math.inf if most == "max" else max(0, int(most) - int((_CGROUP / used).read_text()))
        except (OSError, ValueError):
            continue
    return math.inf


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
