"""What a reader of a comparison has to know beside its verdicts: assumptions, differences, what was left."""

from __future__ import annotations

from collections.abc import Iterator

from gqabench.results.comparison.compared_side import Side
from gqabench.results.comparison.policy import Policy
from gqabench.results.comparison.run_spread import MIN_CELLS_FOR_SCATTER
from gqabench.results.comparison.verdicts import CellKey
from gqabench.results.store.header_facts import (
    code_facts,
    differing,
    host_facts,
    software_facts,
    variable_facts,
)


def comparison_notes(base: Side, new: Side, policy: Policy, is_same_machine: bool) -> Iterator[str]:
    """Yield what a reader has to know, a sentence each."""
    yield from (f"{side.name}: {warning}" for side in (base, new) for warning in side.warnings)
    if base.left_out:
        yield f"{base.name}: without {', '.join(base.left_out)}, which the new side is"
    for side in (base, new):
        if cut := [header.run_id for header in side.headers if header.status != "complete"]:
            yield f"{side.name}: incomplete ({', '.join(cut)}): cells that it lacks are left open"
        in_some = sum(_is_in_some_runs(side, cell) for cell in base.cells.keys() & new.cells.keys())
        if in_some:
            yield f"{side.name}: {in_some} of the cells compared are in only some of its {side.num_runs} runs"
    left_out = sum(cell not in new.cells for cell in base.cells)
    if base.studies != new.studies:
        yield (
            f"different studies ({studies_text(base)} and {studies_text(new)}): "
            f"{left_out} cells of the base that the new side lacks are left out"
        )
    if not is_same_machine:
        known = None not in base.machines | new.machines
        why = "across machines" if known else "the machine of a side is not recorded"
        yield f"{why}: bytes, outcomes and shares of the roof are compared, times are not"
    elif base.num_runs == new.num_runs == 1:
        yield (
            f"one run a side: a spread of {policy.assumed_run_spread:.0%} from run to run is assumed; with "
            f"{MIN_CELLS_FOR_SCATTER} cells or more, one that stands out from the others is judged by their "
            "scatter; several runs a side (a glob) tell more"
        )
    if base.headers and new.headers:
        yield from _differing_facts(base, new, is_same_machine)


def _differing_facts(base: Side, new: Side, is_same_machine: bool) -> Iterator[str]:
    """Yield what differs between the sides' headers; of one machine's host, what both record."""
    found = [
        fact
        for facts_of in (software_facts, code_facts)
        for fact in differing(base.headers, new.headers, facts_of)
    ]
    if is_same_machine:
        of_host = (differing(base.headers, new.headers, kind) for kind in (host_facts, variable_facts))
        found += [fact for facts in of_host for fact in facts if None not in fact]
    for name, before, after in sorted(found):
        yield f"{name}: {before or 'unknown'}, then {after or 'unknown'}"


def _is_in_some_runs(side: Side, cell: CellKey) -> bool:
    return len({row["run_id"] for row in side.cells[cell]}) < side.num_runs


def studies_text(side: Side) -> str:
    """Return the names of a side's studies."""
    return ", ".join(sorted(side.studies)) or "none"
