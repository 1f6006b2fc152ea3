"""What a control's self-proof found on the model at hand, before training starts (``proof.json`` of an arm)."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.records.training import Surface


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Evidence that a control changes what its surface says and nothing else.

    Attributes:
        control: Name of the control.
        surface: What it says it changes.
        rows_changed: Rows whose turns were rewritten.
        rows_added: Rows that the control brought along.
        rows_dropped: Rows that it took out.
        labels_masked: Tokens taken out of the loss, over the rows that were tokenised for the proof.
        logits_moved: Largest absolute change of a logit while attached; exactly 0 for every surface but activations.
        gradients_moved: Largest absolute change of a gradient entry of the first layer's weights while attached.
        restored: Whether logits and gradients were the same after detaching as before attaching: logits bit for bit,
            gradients within what two identical passes differ by (exactly, on a CPU).
        ok: Whether all of it fits the surface; a proof that does not is raised as an error, never returned.
        note: One sentence for the report.
    """

    control: str
    surface: Surface
    rows_changed: int
    rows_added: int
    rows_dropped: int
    labels_masked: int
    logits_moved: float
    gradients_moved: float
    restored: bool
    ok: bool
    note: str
