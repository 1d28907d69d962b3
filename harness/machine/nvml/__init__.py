"""NVML, the driver's own account of NVIDIA GPUs, and a null twin for machines without it.

Nothing outside touches the bindings (`pynvml`, of the package `nvidia-ml-py`). What the driver does not tell
is None, with one warning where that is not the device's nature; nothing raises to the caller.
"""

from gqabench.harness.machine.nvml.driver import PynvmlNvml, open_nvml
from gqabench.harness.machine.nvml.interface import DeviceMemory, ListedDevice, NullNvml, Nvml, Utilisation
from gqabench.harness.machine.nvml.visible_devices import cuda_device_uuid, visible_uuids

__all__ = [
    "DeviceMemory",
    "ListedDevice",
    "NullNvml",
    "Nvml",
    "PynvmlNvml",
    "Utilisation",
    "cuda_device_uuid",
    "open_nvml",
    "visible_uuids",
]
