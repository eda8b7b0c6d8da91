"""What PyTorch computes on, and whether it can."""

from __future__ import annotations

from core.errors import ConfigError


def cards() -> list[str]:
    """The names of the NVIDIA cards that PyTorch can use."""
    import torch  # takes seconds to import

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def check_device(device: str, key: str) -> None:
    """Raise `ConfigError` where `device`, which `key` is set to, is a card that is not here.

    PyTorch says so with an `AssertionError` where it was built for the CPU alone.
    """
    kind, _, number = device.partition(":")
    place = int(number) if number.isdecimal() else 0
    if kind == "cuda" and place >= len(found := cards()):
        raise ConfigError(
            f"{key} is {device!r}, but PyTorch sees {', '.join(found) or 'no NVIDIA card'}: "
            f'install the driver and a PyTorch for CUDA, or set {key} to "cpu".'
        )
