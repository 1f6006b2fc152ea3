"""From settings to controls; ``a+b`` composes."""

from __future__ import annotations

from typing import Any

from trimtab.control.material import Material
from trimtab.control.registry import Entry, entry
from trimtab.errors import UsageError
from trimtab.records.config import ControlSettings
from trimtab.roles import Control


def build(settings: ControlSettings, material: Material) -> tuple[Control, ...]:
    """Make the controls of one set, in the order in which they are named.

    In a composed set an option belongs to the control that has it; where several have it, it is written
    ``name.option`` (``token-mask.strength``). A bare option that several have is refused.

    Raises:
        UsageError: If a control or option does not exist, an option is ambiguous, or the material lacks what a
            control needs.
    """
    entries = members(settings.name)
    options: dict[str, dict[str, object]] = {item.name: {} for item in entries}
    for key, value in settings.options.items():
        owner, option = _owner(key, entries)
        if option in options[owner]:
            raise UsageError(
                f"option {option!r} of control {owner!r} is given twice",
                allowed="each option once",
                todo=f"keep one of `{option}` and `{owner}.{option}`",
            )
        options[owner][option] = value
    return tuple(item.build(options[item.name], material) for item in entries)


def members(name: str) -> tuple[Entry[Any], ...]:
    """The controls that a name such as ``a+b`` is made of.

    Raises:
        UsageError: If one does not exist or is named twice.
    """
    entries = tuple(entry(part.strip()) for part in name.split("+"))
    if len({item.name for item in entries}) < len(entries):
        raise UsageError(
            f"control set {name!r} names a control twice", allowed="each control once", todo="remove the repetition"
        )
    return entries


def fights(name: str) -> bool:
    """Whether any control of a set fights the gradient.

    Raises:
        UsageError: As ``members``.
    """
    return any(item.fights_gradient for item in members(name))


def _owner(key: str, entries: tuple[Entry[Any], ...]) -> tuple[str, str]:
    name, dot, option = key.partition(".")
    if dot:
        if name in {item.name for item in entries}:
            return name, option
    elif len(entries) == 1:
        return entries[0].name, key
    else:
        owners = [item.name for item in entries if key in item.options]
        if len(owners) == 1:
            return owners[0], key
    allowed = ", ".join(f"{item.name}.{option}" for item in entries for option in item.options)
    raise UsageError(
        f"option {key!r} of control set {'+'.join(item.name for item in entries)!r}",
        allowed=allowed or "no options",
        todo="write an option that several controls have as `control.option`",
    )
