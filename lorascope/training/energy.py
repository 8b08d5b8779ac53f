"""Energy that a run took, where the accelerator's driver counts it."""

from __future__ import annotations

from collections.abc import Sequence


class EnergyMeter:
    """Counts the joules of the named CUDA devices since it was made.

    The count is the driver's own, of the whole board: what else runs there is in it. ``joules`` is None where there is
    no such device, the library ``nvidia-ml-py`` is missing, or the driver does not count.
    """

    def __init__(self, devices: Sequence[int]) -> None:
        """``devices``: indices as torch counts them."""
        self._devices = tuple(devices)
        self._before = self._read()

    def joules(self) -> float | None:
        """Energy since the meter was made."""
        now = self._read()
        return None if now is None or self._before is None else (now - self._before) / 1000

    def _read(self) -> int | None:
        """Sum of the devices' counters in millijoules."""
        if not self._devices:
            return None
        try:
            import pynvml
        except ImportError:
            return None
        import torch

        try:
            pynvml.nvmlInit()
            handles = [
                # Torch's numbering need not be the driver's: the UUID is the same in both.
                pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
                for index in self._devices
            ]
            return sum(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles)
        except (pynvml.NVMLError, AttributeError, RuntimeError):
            return None
