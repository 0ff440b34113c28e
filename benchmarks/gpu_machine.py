"""What is known about a machine without a library for its GPU."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from refinedet_tf import __version__

QUERIED = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
"""What NVIDIA's driver is asked for."""


def machine_facts() -> dict[str, object]:
    """Returns the processor, the operating system, Python, the project's version and NVIDIA's driver."""
    return {
        "refinedet_tf": __version__,
        "commit": _first_line("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "driver": _driver_facts(),
    }


def _driver_facts() -> dict[str, str] | None:
    """Returns what NVIDIA's driver says about the first GPU; None without such a driver."""
    line = _first_line("nvidia-smi", f"--query-gpu={','.join(QUERIED)}", "--format=csv,noheader")
    values = [] if line is None else line.split(", ")
    return dict(zip(QUERIED, values, strict=True)) if len(values) == len(QUERIED) else None


def _first_line(*command: str) -> str | None:
    """Returns the first line that a command prints; None if there is no such command or it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return printed.split("\n")[0].strip() or None


def _cpu_name() -> str:
    """Returns the processor's name as Linux knows it, or else as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
