"""Plans sweeps, isolates what is measured in worker processes, times it and weighs it."""
