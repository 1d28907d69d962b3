"""Configurations to problems, arms and cases, and the identity of a measurement. Imports no torch."""
