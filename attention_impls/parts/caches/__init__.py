"""How K and V are stored: contiguous, in pages, quantised."""
