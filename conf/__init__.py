"""What to run: typed schemas, and the YAML that fills them."""

from gqabench.conf.presets import CONF_FOLDER, list_presets, read_preset
from gqabench.conf.schema import Key, MeasureConfig, RunConfig, own_keys, register, sweep_config

__all__ = [
    "CONF_FOLDER",
    "Key",
    "MeasureConfig",
    "RunConfig",
    "list_presets",
    "own_keys",
    "read_preset",
    "register",
    "sweep_config",
]
