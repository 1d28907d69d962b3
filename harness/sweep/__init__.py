"""The Hydra application: sweeper, job, run and progress."""
