"""What is measured beside time: roofs, energy, and the conditions during timing."""
