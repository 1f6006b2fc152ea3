"""Trimtab: see what data will teach, choose what you want of it, train so that the rest is explained away, prove it.

Importing this package imports nothing heavy: each public name is loaded from its home when it is first used, so that
``trimtab --help`` does not wait for PyTorch. The verbs ``decide``, ``train`` and ``verify`` are functions here although
packages of the same names exist; import from those by their full path (``from trimtab.decide.rule import ...``).
"""

from __future__ import annotations

from importlib import import_module
from sys import modules
from types import ModuleType
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from trimtab.data.read import read_chat, read_preferences, read_prompts
    from trimtab.errors import (
        DataError,
        ModelError,
        NeedsHumanError,
        ProtectedConceptError,
        SelfCheckError,
        StorageError,
        TrainingError,
        TrimtabError,
        UsageError,
    )
    from trimtab.lens.bank import Bank
    from trimtab.loop.api import decide
    from trimtab.loop.run import run, train, verify
    from trimtab.model.host import Host
    from trimtab.observe.forecast import forecast
    from trimtab.records.rows import Fit, HeldOut, Tune
    from trimtab.records.site import Site

    __version__: str

__all__ = [
    "Bank",
    "DataError",
    "Fit",
    "HeldOut",
    "Host",
    "ModelError",
    "NeedsHumanError",
    "ProtectedConceptError",
    "SelfCheckError",
    "Site",
    "StorageError",
    "TrainingError",
    "TrimtabError",
    "Tune",
    "UsageError",
    "__version__",
    "decide",
    "forecast",
    "read_chat",
    "read_preferences",
    "read_prompts",
    "run",
    "train",
    "verify",
]

_NAMES_BY_HOME = {
    "trimtab.data.read": ("read_chat", "read_preferences", "read_prompts"),
    "trimtab.errors": (
        "DataError",
        "ModelError",
        "NeedsHumanError",
        "ProtectedConceptError",
        "SelfCheckError",
        "StorageError",
        "TrainingError",
        "TrimtabError",
        "UsageError",
    ),
    "trimtab.lens.bank": ("Bank",),
    "trimtab.loop.api": ("decide",),
    "trimtab.loop.run": ("run", "train", "verify"),
    "trimtab.model.host": ("Host",),
    "trimtab.observe.forecast": ("forecast",),
    "trimtab.records.rows": ("Fit", "HeldOut", "Tune"),
    "trimtab.records.site": ("Site",),
}
_HOMES = {name: home for home, names in _NAMES_BY_HOME.items() for name in names}


class _Facade(ModuleType):
    """The package as a module on which importing ``trimtab.decide.rule`` does not hide the function ``decide``."""

    @override
    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def _load(name: str) -> object:
    """Load a public name from its home (PEP 562)."""
    value: object
    if name == "__version__":
        value = import_module("importlib.metadata").version("trimtab")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}; public names: {', '.join(__all__)}")
    globals()[name] = value
    return value


def _names() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # hidden from checkers, which would otherwise let every misspelt name through
    __getattr__ = _load
    __dir__ = _names

modules[__name__].__class__ = _Facade
