"""Two sides of runs, compared: metrics, policies and verdicts."""
