"""What a workload calls and checks: attention, a layer, training, generation."""
