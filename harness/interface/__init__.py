"""The front door for Python programs: what `gqabench.measure` and `gqabench.plan` do. Imports no torch."""
