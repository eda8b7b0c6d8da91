"""NVIDIA cards for Prometheus: how busy, full and hot they are, asked at each look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = structlog.get_logger()


def watch_gpus(registry: CollectorRegistry) -> bool:
    """Show this machine's cards in `registry`; false without NVIDIA's driver or `nvidia-ml-py`."""
    try:
        import pynvml
    except ImportError:
        return False
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    registry.register(GpuCollector(pynvml))
    return True


class GpuCollector(Collector):
    """Reads NVML, which is initialised; a card that does not tell something has no such figure."""

    def __init__(self, nvml: Any) -> None:
        """`nvml` is the module `pynvml`, or what behaves like it."""
        self._nvml = nvml

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures of this moment."""
        cards = self._cards()
        for name, what, read in (
            ("busy_ratio", "Share of the time that the card computes.", self._busy),
            ("memory_used_bytes", "Memory of the card in use.", self._used),
            ("memory_size_bytes", "Memory of the card.", self._size),
            ("temperature_celsius", "Temperature of the card.", self._temperature),
        ):
            yield self._family(name, what, read, cards)

    def _cards(self) -> list[tuple[tuple[str, str], Any]]:
        """Number and name of each card, with what NVML knows it by."""
        nvml = self._nvml
        try:
            handles = [
                nvml.nvmlDeviceGetHandleByIndex(number)
                for number in range(nvml.nvmlDeviceGetCount())
            ]
            return [
                ((str(number), nvml.nvmlDeviceGetName(handle)), handle)
                for number, handle in enumerate(handles)
            ]
        except nvml.NVMLError as exc:
            log.warning("gpu_unreadable", problem=str(exc))
            return []

    def _family(
        self,
        name: str,
        what: str,
        read: Callable[[Any], float],
        cards: list[tuple[tuple[str, str], Any]],
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"solemate_gpu_{name}", what, labels=("gpu", "card"))
        for named, handle in cards:
            try:
                family.add_metric(named, read(handle))
            # A card that was divided (MIG) does not tell how busy it is.
            except self._nvml.NVMLError as exc:
                log.debug("gpu_figure_missing", figure=name, problem=str(exc))
        return family

    def _busy(self, handle: Any) -> float:
        percent: float = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        return percent / 100

    def _used(self, handle: Any) -> float:
        return float(self._nvml.nvmlDeviceGetMemoryInfo(handle).used)

    def _size(self, handle: Any) -> float:
        return float(self._nvml.nvmlDeviceGetMemoryInfo(handle).total)

    def _temperature(self, handle: Any) -> float:
        sensor = self._nvml.NVML_TEMPERATURE_GPU
        return float(self._nvml.nvmlDeviceGetTemperature(handle, sensor))
