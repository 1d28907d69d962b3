"""The parent's side of workers: environments, processes, and a pool of them."""
