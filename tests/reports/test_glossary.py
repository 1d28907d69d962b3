from __future__ import annotations

import pandas as pd

from gqabench.reports.tables.results_table import flags_table
from gqabench.results.flags import FLAG_MEANINGS


def test_every_flag_is_explained_where_it_is_counted() -> None:
    frame = pd.DataFrame({"flags": [[*FLAG_MEANINGS], ["drifting"], []]})
    [group] = flags_table(frame).groups
    rows = {name.text: (count.text, meaning.text) for name, count, meaning in group.rows}
    assert rows.keys() == FLAG_MEANINGS.keys()
    assert rows["drifting"] == ("2", "calls became slower or faster while they were timed")
    assert all(rows[flag][1] == meaning for flag, meaning in FLAG_MEANINGS.items())


def test_an_unknown_flag_is_counted_without_a_meaning() -> None:
    [group] = flags_table(pd.DataFrame({"flags": [["of_a_later_version"]]})).groups
    assert [[cell.text for cell in line] for line in group.rows] == [["of_a_later_version", "1", ""]]
