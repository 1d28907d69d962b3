"""The folder of the user in which what was built, tuned, measured or checked out is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "GQABENCH_CACHE_DIR"


def user_cache_folder() -> Path:
    """Return `$GQABENCH_CACHE_DIR`, else `$XDG_CACHE_HOME/gqabench`, else `~/.cache/gqabench`, absolute.

    An empty variable counts as one that is not set. The folder need not exist.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "gqabench"
