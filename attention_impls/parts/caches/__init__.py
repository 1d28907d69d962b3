"""How K and V are kept: contiguous, in pages, quantised."""
