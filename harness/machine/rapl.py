"""RAPL: the energy counters of CPU packages, as the Linux kernel shows them under `/sys/class/powercap`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")


@dataclass
class _Package:
    """One counter, which starts again from 0 when it has reached its range."""

    file: Path
    range_uj: int
    last_uj: int
    total_uj: int = 0

    def read_uj(self) -> int:
        """Return the energy since the first reading. Raises `OSError` or `ValueError`."""
        now_uj = int(self.file.read_text())
        passed_uj = now_uj - self.last_uj
        self.total_uj += passed_uj if passed_uj >= 0 else passed_uj + self.range_uj
        self.last_uj = now_uj
        return self.total_uj


class RaplEnergyMeter:
    """All CPU packages together: cores and their caches, without the memory modules.

    The counters start again after about 260 kJ, a quarter of an hour or more: readings must not lie further
    apart. Since Linux 5.10 only root may read them, unless an administrator allows it.
    """

    source = "rapl"

    def __init__(self, packages: list[_Package]) -> None:
        self._packages = packages

    @classmethod
    def open(cls, powercap: Path = _POWERCAP) -> RaplEnergyMeter | None:
        """Open the packages of this machine; None where there is none, or one of them may not be read."""
        packages = []
        try:
            for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's are named so as well
                # `core`, `uncore` and `dram` lie inside a package, `psys` around all of them.
                if not (zone / "name").read_text().startswith("package-"):
                    continue
                file = zone / "energy_uj"
                range_uj = int((zone / "max_energy_range_uj").read_text())
                packages.append(_Package(file, range_uj, last_uj=int(file.read_text())))
        except (OSError, ValueError):
            return None
        return cls(packages) if packages else None

    def read_j(self) -> float | None:
        """Return the joules since the meter was opened; None when a counter cannot be read any more."""
        try:
            return sum([package.read_uj() for package in self._packages]) / 1e6
        except (OSError, ValueError):
            return None
