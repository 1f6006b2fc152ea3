"""Feature rewards: what the frozen host reads in the student's text, paid claim by claim.

The reward of RLFR (2602.10067) with three changes:

* a claim that stands is paid by the probability that it is right, flagged or not: in the paper, keeping a flagged claim
  always earns 0, and correct claims that were flagged are no longer kept after training;
* an answer that makes fewer claims than the host made in answer to the same prompt pays for it;
* the price of doubt follows the measured share of doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from trimtab.errors import UsageError
from trimtab.records.claims import Claim, Prompt, Said
from trimtab.records.rewards import Credit, RewardSettings, Scored, mean_terms
from trimtab.records.rows import Message
from trimtab.reward.claims import rule_claims
from trimtab.roles import Reader, Reward, Splitter


def whole_answers(answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
    """Every answer as one claim (a ``Splitter``): for features of the whole answer, such as its tone."""
    return tuple((Claim(text=answer, start=0, end=len(answer)),) if answer.strip() else () for answer in answers)


ANCHOR: Final = -1.0
"""In place of wanted claims: answers to this prompt earn nothing, so that only a KL term acts on them."""


@dataclass(kw_only=True)
class _Tally:
    """What was seen since the last ``adapt``."""

    stated: int = 0
    hedged: int = 0


@dataclass(kw_only=True)
class FeatureReward:
    """A ``Reward`` from a reader of claims.

    Attributes:
        reader: Reads calibrated probabilities on the frozen host.
        settings: Prices.
        splitter: Finds claims; by default the rule-based one, or whole answers where ``settings.unit`` is ``answer``.
        name: For curves.
        price: What a claim earns that is said with doubt; adapted.
    """

    reader: Reader
    settings: RewardSettings = field(default_factory=RewardSettings)
    splitter: Splitter | None = None
    name: str = "feature"
    price: float = field(init=False)
    _seen: _Tally = field(default_factory=_Tally)

    def __post_init__(self) -> None:
        self.price = self.settings.hedge_price

    def __call__(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, ended: Sequence[bool], wanted: Sequence[float]
    ) -> tuple[Scored, ...]:
        """Score answers.

        Raises:
            UsageError: If the four are not of one length.
            TrimtabError: What the reader raises.
        """
        if not len(prompts) == len(answers) == len(ended) == len(wanted):
            raise UsageError(
                f"{len(prompts)} prompts, {len(answers)} answers, {len(ended)} ends, {len(wanted)} wanted claims",
                allowed="one of each for every answer",
                todo="repeat each prompt for each of its answers",
            )
        split = self.splitter or (whole_answers if self.settings.unit == "answer" else rule_claims)
        said = [
            Said(prompt=prompt, answer=answer, claims=claims if want >= 0 else ())
            for prompt, answer, claims, want in zip(prompts, answers, split(answers), wanted, strict=True)
        ]
        chances = self.reader(said)
        return tuple(
            self._score(one, read, end, want) for one, read, end, want in zip(said, chances, ended, wanted, strict=True)
        )

    def _score(self, said: Said, chances: Sequence[float], ended: bool, wanted: float) -> Scored:
        """The reward of one answer."""
        if wanted < 0:
            return Scored(answer=0.0)
        settings, credits = self.settings, list[Credit]()
        start = 0
        for claim, chance in zip(said.claims, chances, strict=True):
            value = self._value(claim, chance if settings.want == "more" else 1 - chance)
            credits.append(Credit(start=start, end=claim.end, value=value))
            start = claim.end
        asserted = [p for c, p in zip(said.claims, chances, strict=True) if c.stance == "asserted"]
        hedged = sum(claim.stance == "hedged" for claim in said.claims)
        stated = len(asserted) + hedged
        self._seen.stated += stated
        self._seen.hedged += hedged
        lost = max(0.0, wanted - stated) / wanted if wanted > 0 else 0.0
        illegible = settings.illegible if not ended or not stated else 0.0
        terms = {
            "claims": float(stated),
            "hedged": float(hedged),
            "withdrawn": float(len(said.claims) - stated),
            "lost_claims": -settings.claims_weight * lost,
            "illegible": illegible,
            "paid_for_claims": sum(credit.value for credit in credits),
        }
        if asserted:
            terms["probability"] = sum(asserted) / len(asserted)
        return Scored(answer=illegible - settings.claims_weight * lost, credits=tuple(credits), terms=terms)

    def _value(self, claim: Claim, chance: float) -> float:
        match claim.stance:
            case "asserted":
                return chance - self.settings.wrong_cost * (1 - chance)
            case "hedged":
                return self.price
            case "withdrawn":
                return 0.0

    def adapt(self) -> Mapping[str, float]:
        """Lower the price of doubt by ``hedge_step`` times what the share of hedged claims is above its target."""
        seen, settings = self._seen, self.settings
        share = seen.hedged / seen.stated if seen.stated else 0.0
        if settings.hedge_share is not None and seen.stated:
            self.price -= settings.hedge_step * (share - settings.hedge_share)
            self.price = min(max(self.price, -1.0), 1.0)
        self._seen = _Tally()
        return {"hedge_share": share, "hedge_price": self.price}

    def state(self) -> Mapping[str, float]:
        """The price."""
        return {"price": self.price}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from a price."""
        self.price = state["price"]
        self._seen = _Tally()


Told: TypeAlias = str | Sequence[Message]
"""A prompt or a completion as TRL passes it: plain text, or turns."""


def for_trl(reward: Reward) -> Callable[..., list[float]]:
    """A reward as TRL's trainers take one: ``GRPOTrainer(reward_funcs=for_trl(reward), ...)``.

    Two columns of the dataset are used where they are there: ``wanted_claims``, how many claims the host makes in
    answer to each prompt (without it, losing claims costs nothing), and ``ended``, whether an answer came to its end
    (without it, every answer counts as ended; set ``mask_truncated_completions`` then).
    """

    def paid(prompts: Sequence[Told], completions: Sequence[Told], **columns: object) -> list[float]:
        scored = reward(
            [_turns(prompt) for prompt in prompts],
            [_text(completion) for completion in completions],
            ended=cast("Sequence[bool]", columns.get("ended") or [True] * len(completions)),
            wanted=[float(n) for n in cast("Sequence[float]", columns.get("wanted_claims") or [0] * len(completions))],
        )
        log = columns.get("log_metric")
        if callable(log):
            for name, value in {**mean_terms(scored), **reward.adapt()}.items():
                log(f"{reward.name}/{name}", value)
        else:
            reward.adapt()
        return [one.total for one in scored]

    paid.__name__ = reward.name
    return paid


def _turns(prompt: Told) -> Prompt:
    return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)


def _text(completion: Told) -> str:
    return completion if isinstance(completion, str) else completion[0]["content"]
