"""Records of measurements: their schema, their store, and the statistics that derive from them."""

from gqabench.results.pytest_benchmark_export import to_pytest_benchmark
from gqabench.results.record import FINAL_OUTCOMES, RECORD_FIELDS, SCHEMA_VERSION, Outcome, Record
from gqabench.results.store.load import LoadedRuns, UnreadableRun, load, load_runs
from gqabench.results.store.pytest_benchmark_file import from_pytest_benchmark
from gqabench.results.store.run_folder import RecordWriter, RunFolder, RunHeader, list_runs

__all__ = [
    "FINAL_OUTCOMES",
    "RECORD_FIELDS",
    "SCHEMA_VERSION",
    "LoadedRuns",
    "Outcome",
    "Record",
    "RecordWriter",
    "RunFolder",
    "RunHeader",
    "UnreadableRun",
    "from_pytest_benchmark",
    "list_runs",
    "load",
    "load_runs",
    "to_pytest_benchmark",
]
