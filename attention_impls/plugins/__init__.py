"""Implementations that are not in the table: how they are found, and held against the contract."""
