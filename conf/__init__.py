"""What to run: typed schemas, and the YAML that fills them."""

from gqabench.conf.presets import CONF_FOLDER, list_presets, read_preset
from gqabench.conf.schema import MeasureConfig, SweepConfig, register

__all__ = ["CONF_FOLDER", "MeasureConfig", "SweepConfig", "list_presets", "read_preset", "register"]
