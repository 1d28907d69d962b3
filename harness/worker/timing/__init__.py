"""How calls are timed, and how caches are made cold before them."""
