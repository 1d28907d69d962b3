"""Implementations that are not in the table: how they are loaded, and checked against the contract."""
