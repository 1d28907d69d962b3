"""Layers and whole models around an implementation."""
