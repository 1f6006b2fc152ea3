"""Contrasts: the material from which a concept is extracted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from trimtab.errors import UsageError
from trimtab.records.config import Settings
from trimtab.records.rows import ChatRow


class ContrastSet(Settings):
    """One side of the fit / held-out divide.

    A trait needs ``questions`` and ``elicit``: the host answers each question under eliciting and under neutral system
    prompts. A skill needs ``rows``: conversations that show it.
    """

    questions: tuple[str, ...] = Field(default=(), description="user turns")
    elicit: tuple[str, ...] = Field(default=(), description="system prompts that ask for the concept")
    neutral: tuple[str, ...] = Field(default=("",), description="system prompts that do not; an empty one means none")
    rows: tuple[ChatRow, ...] = Field(default=(), description="conversations that show the concept")


class Contrast(Settings):
    """A concept to be: its name, its meaning, and two disjoint sets of material."""

    name: str = Field(pattern=r"^[\w][\w -]*$", description="unique name")
    meaning: str = Field(min_length=3, description="one plain line; spec clauses are matched with it")
    kind: Literal["trait", "skill"] = Field(default="trait", description="a way of talking, or something it can do")
    fit: ContrastSet = Field(description="material that the lens is fitted on")
    held_out: ContrastSet = Field(description="material that the evidence is measured on; shares nothing with `fit`")

    def check(self) -> None:
        """Refuse a contrast that cannot be fitted or whose evidence would be worthless.

        Raises:
            UsageError: If material is missing, or if the two sets share questions, prompts or rows.
        """
        for side, material in (("fit", self.fit), ("held_out", self.held_out)):
            whole = material.rows if self.kind == "skill" else material.questions and material.elicit
            if not whole:
                raise UsageError(
                    f"concept {self.name!r}: {side} lacks {'rows' if self.kind == 'skill' else 'questions or elicit'}",
                    allowed="a trait with questions and eliciting prompts, or a skill with rows, on both sides",
                    todo="add the missing material",
                )
        shared = [q for q in self.fit.questions if q in set(self.held_out.questions)]
        shared += [str(row["messages"][:-1]) for row in self.fit.rows if row in self.held_out.rows]
        if shared:
            raise UsageError(
                f"concept {self.name!r}: fit and held_out share {len(shared)} entries, first: {shared[0]!r}",
                allowed="disjoint material, so that the evidence is about unseen questions",
                todo="move each entry to one side",
            )


def read_contrasts(path: Path) -> tuple[Contrast, ...]:
    """Read a YAML list of contrasts.

    Raises:
        UsageError: If the file is not such a list; every fault is named.
    """
    adapter = TypeAdapter(tuple[Contrast, ...])
    try:
        contrasts = adapter.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(
            f"cannot read {path}: {error}", allowed="a YAML list of contrasts", todo="see docs/how-to/observe.md"
        ) from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(
            f"{path}: {faults}",
            allowed="a YAML list of name, meaning, kind, fit, held_out",
            todo="correct the named entries; see docs/how-to/observe.md",
        ) from error
    check_contrasts(contrasts)
    return contrasts


def check_contrasts(contrasts: Sequence[Contrast]) -> None:
    """Check every contrast and that names are unique.

    Raises:
        UsageError: As ``Contrast.check``, or for a repeated name or an empty list.
    """
    names = [contrast.name for contrast in contrasts]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise UsageError(
            f"contrasts with names {names}",
            allowed="at least one contrast, every name once",
            todo=f"rename {', '.join(repeated)}" if repeated else "add a contrast",
        )
    for contrast in contrasts:
        contrast.check()
