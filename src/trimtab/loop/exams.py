"""Which exams a run sits: the lab's own where the host is the lab model, the user's held-out rows elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.lab.exams import lab_exams
from trimtab.lab.traits import TRAITS
from trimtab.loop.prepare import Prepared
from trimtab.records.exam import Exam
from trimtab.verify.generic import generic_exams


def exams_of(prepared: Prepared, avoided: Sequence[str]) -> tuple[Exam, ...]:
    """The held-out exams of a run.

    On the lab the planted truth grades: its reserved skills where the rows teach one, and its exact trait detectors.
    Whatever it cannot grade (the user's own questions, concepts that are not planted) is examined as on any model:
    on the user's held-out rows, with the host's lenses as graders.
    """
    bank, host = prepared.bank, prepared.host
    if prepared.world is not None and all(name in TRAITS for name in avoided):
        planted = lab_exams(prepared.world, skills=prepared.skills, traits=avoided)
        if prepared.skills:
            return planted
        own = generic_exams(host, bank, prepared.held_out, avoided)
        kept = {exam.name for exam in planted}
        return (*planted, *(exam for exam in own if exam.name not in kept))
    return generic_exams(host, bank, prepared.held_out, avoided)
