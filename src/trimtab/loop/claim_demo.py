"""The settings of the demo on the lab: what a model of a million parameters wants."""

from __future__ import annotations

from trimtab.records.claim_run import ClaimRunSettings
from trimtab.records.harness import HarnessSettings
from trimtab.records.rewards import GrpoSettings, RewardSettings


def demo_settings(*, jobs: int = 1) -> ClaimRunSettings:
    """The lab, three seeds.

    The harness says what the lab's corpus says: "wait," is followed by "that is wrong." with a correction or by "no,
    that is right.".
    """
    return ClaimRunSettings(
        model="lab",
        probe_questions=900,
        train_questions=900,
        tune_questions=150,
        held_out_questions=180,
        reward=RewardSettings(wrong_cost=2.0, hedge_price=0.4, hedge_share=None, claims_weight=0.5),
        train=GrpoSettings(
            method="full",
            max_steps=90,
            per_device_train_batch_size=96,
            num_generations=8,
            learning_rate=8e-4,
            warmup_steps=5,
            max_completion_length=48,
            beta=0.1,
            explore_prompt="answer with hedges.",
            explore_share=0.375,
            below_weight=0.2,
            lr_scheduler_type="constant_with_warmup",
            logging_steps=5,
            save_steps=30,
            validate_steps=15,
        ),
        harness=HarnessSettings(inject=" wait,", retract=" i am not sure.", max_corrections=1),
        best_of=8,
        best_of_temperature=0.7,
        jobs=jobs,
    )
