"""From keys to problems, arms and cases, and what identifies them. Imports no torch."""
