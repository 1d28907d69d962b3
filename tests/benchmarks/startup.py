"""How long short commands take, beside those of another checkout of this project, in one run.

    python tests/benchmarks/startup.py OTHER_CHECKOUT [--rounds 40]

Each checkout gets an environment of its own over the packages of this interpreter, as an editable install
leaves it: one path entry. The commands alternate in a fresh order each round, so that drift hits both alike.
Printed are the medians, and the median of the ratios within rounds with its 95 % interval.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sysconfig
import tempfile
import time
import venv
from pathlib import Path
from statistics import median

from gqabench.results.statistics.samples import median_interval

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (("--help",), ("list", "shapes"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, metavar="OTHER_CHECKOUT")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        programs = {
            name: console_script(Path(folder) / name, checkout.resolve())
            for name, checkout in (("this", ROOT), ("other", arguments.other))
        }
        for command in COMMANDS:
            compare(programs, command, arguments.rounds)


def console_script(environment: Path, checkout: Path) -> Path:
    """The path of a `gqabench` that runs a checkout."""
    venv.create(environment, with_pip=False)
    packages = next(environment.glob("lib/python*/site-packages"))
    links = checkout / ".types"
    (packages / "a_checkout.pth").write_text(f"{links if links.exists() else checkout}\n")
    (packages / "b_packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    module = "gqabench.harness.cli" if (checkout / "gqabench").exists() else "harness.cli"
    script = environment / "bin" / "gqabench"
    script.write_text(
        f"#!{environment}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    return script


def compare(programs: dict[str, Path], command: tuple[str, ...], num_rounds: int) -> None:
    """Print the medians of both programs for a command, and of their ratio."""
    rounds = [measure_round(programs, command) for _ in range(num_rounds + 2)][2:]  # the first fill caches
    medians = {name: median(one[name] for one in rounds) * 1e3 for name in programs}
    ratios = [one["this"] / one["other"] for one in rounds]
    interval = median_interval(ratios)
    bounds = f"{interval.low:.3f} to {interval.high:.3f}, " if interval else ""
    print(
        f"gqabench {' '.join(command)}: this {medians['this']:.1f} ms, other {medians['other']:.1f} ms,"
        f" ratio {median(ratios):.3f} ({bounds}{num_rounds} rounds)"
    )


def measure_round(programs: dict[str, Path], command: tuple[str, ...]) -> dict[str, float]:
    """Seconds of each program, once, in random order."""
    seconds = {}
    for name in random.sample(list(programs), len(programs)):
        started = time.perf_counter()
        subprocess.run([programs[name], *command], stdout=subprocess.DEVNULL, check=True)
        seconds[name] = time.perf_counter() - started
    return seconds


if __name__ == "__main__":
    main()
