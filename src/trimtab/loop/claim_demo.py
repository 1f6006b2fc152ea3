"""The settings of the demo on the lab: what a model of a million parameters wants."""

from __future__ import annotations

from trimtab.records.claim_run import ClaimRunSettings
from trimtab.records.harness import HarnessSettings
from trimtab.records.rewards import GrpoSettings, RewardSettings


def demo_settings(*, jobs: int = 1) -> ClaimRunSettings:
    """The lab, three seeds.

    The harness says what the lab's corpus says: "wait," is followed by "that is wrong." with a correction or by "no,
    that is right.". Its threshold was chosen on Tune with trained students: of .7, .75 and .8 the highest that loses
    neither known answers nor sums.
    """
    return ClaimRunSettings(
        model="lab",
        probe_questions=1500,
        train_questions=900,
        practice_questions=450,
        tune_questions=240,
        held_out_questions=180,
        reading="network",
        reward=RewardSettings(wrong_cost=1.0, hedge_price=0.0, hedge_share=None, claims_weight=1.0, illegible=-1.0),
        train=GrpoSettings(
            lora_r=32,
            lora_alpha=64,
            max_steps=130,
            per_device_train_batch_size=48,
            steps_per_generation=4,
            num_generations=8,
            learning_rate=1.5e-3,
            warmup_steps=5,
            max_completion_length=44,
            beta=0.1,
            explore_words="please check that.",
            explore_share=0.375,
            content_weight=0.2,
            logging_steps=5,
            save_steps=20,
            validate_steps=10,
        ),
        harness=HarnessSettings(threshold=0.75, inject=" wait,", retract=" i am not sure.", max_corrections=1),
        best_of=16,
        best_of_temperature=0.7,
        jobs=jobs,
    )
