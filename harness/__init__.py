"""Plans sweeps, isolates what is measured in worker processes, and measures its time, memory and energy."""
