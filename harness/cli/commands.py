"""The table of commands. A command's module is imported only when the command is run."""

from __future__ import annotations

COMMANDS = {
    "sweep": ("gqabench.harness.cli.sweep", "measure cases (a Hydra application)"),
    "report": ("gqabench.harness.cli.report", "make figures, tables and a page from runs"),
    "compare": ("gqabench.harness.cli.compare", "check whether stored runs became slower, larger or wrong"),
    "history": (
        "gqabench.harness.cli.history",
        "show trends over many runs, and which revision changed a cell",
    ),
    "ab": (
        "gqabench.harness.cli.ab",
        "compare two revisions or interpreters: is the second slower, larger or wrong?",
    ),
    "samples": ("gqabench.harness.cli.samples", "export the raw samples of some cells, and plot them"),
    "baseline": ("gqabench.harness.cli.baseline", "update or list committed reference runs"),
    "doctor": (
        "gqabench.harness.cli.doctor",
        "report what disturbs measurements on this machine, and its measured roofs",
    ),
    "plan": (
        "gqabench.harness.cli.plan",
        "show the tokens and sequences that fit a memory budget, by number of KV heads",
    ),
    "list": ("gqabench.harness.cli.listing", "list impls, shapes, studies or runs"),
}
"""The module of each command, and what the command does."""

LISTINGS = ("impls", "shapes", "studies", "runs")
"""What `gqabench list` lists."""
