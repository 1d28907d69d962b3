"""Calls of the driver: each refusal becomes None, and at most one warning."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from typing import Any

_FUNCTION_NOT_FOUND = 13
_NOT_SUPPORTED = 3
_NOT_FOUND = 6
_FATAL_CODES = frozenset({15, 16, 28})
"""`nvmlReturn_t`: GPU is lost, reset required, GPU not found."""
_TRY_OLDER_CODES = frozenset({_NOT_SUPPORTED, _FUNCTION_NOT_FOUND, 25})
"""The last: argument version mismatch."""

Question = tuple[Any, ...]
"""The name of a function and its arguments after the device."""


class Refusal(Exception):
    """The driver did not answer. `code` is its `nvmlReturn_t`."""

    def __init__(self, function: str, code: int, why: str) -> None:
        super().__init__(f"{function}: {why}")
        self.function = function
        self.code = code
        self.why = why


@dataclass(frozen=True)
class _Device:
    handle: Any
    board: Any
    """The same, but for a MIG slice."""


class DriverCalls:
    """Asks through initialised bindings, from any thread.

    A device that does not support a question answers None without a warning: that is a property of it. Any
    other refusal warns once for each device, function and cause. A GPU that is lost is not asked again.
    """

    def __init__(self, bindings: Any) -> None:
        self._nvml = bindings
        self._devices: dict[str, _Device] = {}
        self._lost: set[str] = set()
        self._warned: set[tuple[str, str, int]] = set()
        self._lock = threading.Lock()

    def ask(self, uuid: str, function: str, *arguments: Any) -> Any:
        """Return what a function reports about a device or a MIG slice."""
        return self.first(uuid, (function, *arguments))

    def ask_board(self, uuid: str, function: str, *arguments: Any) -> Any:
        """Return what a function reports about the whole board."""
        return self.first(uuid, (function, *arguments), of_board=True)

    def first(self, uuid: str | None, *questions: Question, of_board: bool = False) -> Any:
        """Return the answer to the first question that this driver knows; None, with a warning, for none."""
        if uuid in self._lost:
            return None
        refusal = None
        for function, *arguments in questions:
            try:
                return self.call(function, *self._subject(uuid, of_board), *arguments)
            except Refusal as latest:
                if refusal is None or latest.code != _FUNCTION_NOT_FOUND:
                    refusal = latest
                if latest.code not in _TRY_OLDER_CODES:
                    break
        assert refusal is not None
        self.note("the driver" if uuid is None else uuid, refusal)
        return None

    def _subject(self, uuid: str | None, of_board: bool) -> list[Any]:
        """Return the device that a function is about, as its first argument; nothing for the system."""
        if uuid is None:
            return []
        if uuid not in self._devices:
            self._devices[uuid] = self._find(uuid)
        device = self._devices[uuid]
        return [device.board if of_board else device.handle]

    def _find(self, uuid: str) -> _Device:
        function = "nvmlDeviceGetHandleByUUID"
        try:
            handle = self.call(function, uuid)
        except Refusal as refusal:
            if refusal.code != _NOT_FOUND or not uuid.startswith("GPU-"):
                raise
            # CUDA gives a slice's UUID as 16 bytes, without the prefix that tells it from a GPU's.
            try:
                uuid = "MIG-" + uuid.removeprefix("GPU-")
                handle = self.call(function, uuid)
            except Refusal:
                raise refusal from None
        if not uuid.startswith("MIG-"):
            return _Device(handle, handle)
        return _Device(handle, self.call("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle))

    def call(self, function: str, *arguments: Any) -> Any:
        """Call one function of the driver. Raises `Refusal`."""
        asked = getattr(self._nvml, function, None)
        if asked is None:
            raise Refusal(function, _FUNCTION_NOT_FOUND, "not in these bindings")
        try:
            return asked(*arguments)
        except self._nvml.NVMLError as error:
            raise Refusal(function, error.value, str(error)) from None

    def note(self, subject: str, refusal: Refusal) -> None:
        """Note a refusal: it may be the last, or worth a warning."""
        if refusal.code in _FATAL_CODES:
            with self._lock:
                self._lost.add(subject)
            refusal = Refusal("it is no longer queried", refusal.code, refusal.why)
        if refusal.code != _NOT_SUPPORTED:
            self.warn(subject, refusal)

    def warn(self, subject: str, refusal: Refusal) -> None:
        """Warn, unless the same warning was given before."""
        key = (subject, refusal.function, refusal.code)
        with self._lock:
            if key in self._warned:
                return
            self._warned.add(key)
        warnings.warn(f"NVML, {subject}: {refusal.why} ({refusal.function})", stacklevel=2)
