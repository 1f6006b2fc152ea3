"""Modules that are imported when they are first used, so that ``--help`` does not wait for PyTorch."""

from __future__ import annotations

from importlib import import_module


class LazyModule:
    """Stands for a module until one of its attributes is wanted.

    It is kept out of ``sys.modules``: code that walks over all modules (``inspect`` does) would wake it up.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        return getattr(import_module(self._name), attribute)
