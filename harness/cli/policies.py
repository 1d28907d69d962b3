"""`--policy NAME|FILE`: a policy of `conf/regression`, or a YAML file of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gqabench.conf import list_presets, read_preset
from gqabench.harness.errors import UsageError
from gqabench.results.comparison.policy import Policy

GROUP = "regression"


def read_policy(name: str) -> Policy:
    """Read the policy of that name, or of that file. Raises `UsageError`."""
    try:
        return Policy.from_dict(name, _values(name))
    except ValueError as error:
        raise UsageError(f"--policy {error}") from error


def _values(name: str) -> Any:
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if name in list_presets(GROUP):
        return read_preset(GROUP, name).values
    try:
        # OmegaConf's YAML loader: unlike PyYAML's own it refuses a duplicate key.
        return OmegaConf.to_container(OmegaConf.create(Path(name).expanduser().read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(
            f"{name}: unknown; valid: {', '.join(list_presets(GROUP))}, or a YAML file"
        ) from None
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror}") from error
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: not YAML: {error}") from error
