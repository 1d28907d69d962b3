"""Runs on disk: folders, JSON lines, Parquet, baselines, and reading them back."""
