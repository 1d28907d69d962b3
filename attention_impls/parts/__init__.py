"""What several implementations share: formulas, caches, and calls of libraries."""
