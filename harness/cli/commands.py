"""The table of commands. A command's module is imported only when the command is run."""

from __future__ import annotations

COMMANDS = {
    "sweep": ("gqabench.harness.cli.sweep", "measure cases: a Hydra application"),
    "report": ("gqabench.harness.cli.report", "figures, tables and a page from runs"),
    "compare": ("gqabench.harness.cli.compare", "whether stored runs became slower, larger or wrong"),
    "history": ("gqabench.harness.cli.history", "trends over many runs, and which revision changed a cell"),
    "ab": (
        "gqabench.harness.cli.ab",
        "two revisions or interpreters, measured in pairs: slower, larger, wrong?",
    ),
    "baseline": ("gqabench.harness.cli.baseline", "committed reference runs: update, list"),
    "doctor": (
        "gqabench.harness.cli.doctor",
        "what disturbs measuring on this machine, and its measured roofs",
    ),
    "plan": (
        "gqabench.harness.cli.plan",
        "tokens and sequences that fit a memory budget, by number of KV heads",
    ),
    "list": ("gqabench.harness.cli.listing", "what there is: impls, shapes, studies, runs"),
}
"""A command's module, and what it does."""

LISTINGS = ("impls", "shapes", "studies", "runs")
"""What `gqabench list` lists."""
