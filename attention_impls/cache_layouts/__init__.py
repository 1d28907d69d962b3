"""Implementations over caches that are not one contiguous tensor: pages, rings."""
