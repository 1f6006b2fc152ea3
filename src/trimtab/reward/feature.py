"""Feature rewards: what the frozen host reads in the student's text, paid claim by claim.

The reward of RLFR (2602.10067) with three changes:

* a claim that stands is paid by the probability that it is right, flagged or not: in the paper, keeping a flagged claim
  always earns 0, and correct claims that were flagged are no longer kept after training;
* an answer that makes fewer claims than the host made in answer to the same prompt pays for it;
* the price of doubt follows the measured share of doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """What was seen since the last ``adapt``.

    Attributes:
        stood: What every claim that stands would earn as a fact.
        hedged: How many of them are hedged.
    """

    stood: list[float] = field(default_factory=list[float])
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
        said = [
            one if want >= 0 else replace(one, claims=())
            for one, want in zip(self._said(prompts, answers), wanted, strict=True)
        ]
        chances = self.reader(said)
        return tuple(
            self._score(one, read, end, want) for one, read, end, want in zip(said, chances, ended, wanted, strict=True)
        )

    def _score(self, said: Said, chances: Sequence[float], ended: bool, wanted: float) -> Scored:
        """The reward of one answer."""
        if wanted < 0:
            return Scored(answer=0.0)
        settings = self.settings
        credits = [
            self._credit(claim, self._wanted(chance)) for claim, chance in zip(said.claims, chances, strict=True)
        ]
        asserted = [p for c, p in zip(said.claims, chances, strict=True) if c.stance == "asserted"]
        hedged = sum(claim.stance == "hedged" for claim in said.claims)
        stated = len(asserted) + hedged
        self._seen.stood += [
            self._stood(self._wanted(p)) for c, p in zip(said.claims, chances, strict=True) if c.stands
        ]
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

    def _stood(self, chance: float) -> float:
        """What a claim earns that stands as a fact."""
        return chance - self.settings.wrong_cost * (1 - chance)

    def _credit(self, claim: Claim, chance: float) -> Credit:
        """What a claim earns, and what it won by being meant as it is.

        The host reads the claim without its hedge, so that it is known what the other choice would have earned. A hedge
        that comes before the claim has been said can lose by that, but not win: what is claimed then depends on it, and
        a student that claims carelessly what it has hedged beforehand would make its hedges pay.
        """
        stood = self._stood(chance)
        if self.settings.unit == "answer":
            return Credit(start=claim.start, end=claim.end, value=stood)
        if claim.stance == "asserted":
            after = (claim.end, claim.end + 1)
            return Credit(start=claim.start, end=claim.end, value=stood, chosen=after, won=stood - self.price)
        value = self.price if claim.stance == "hedged" else 0.0
        marker = claim.marker or (claim.start, claim.end)
        won = value - stood if marker[0] >= claim.end else min(value - stood, 0.0)
        return Credit(start=claim.start, end=claim.end, value=value, said=stood, chosen=marker, won=won)

    def better_choices(
        self, prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Where each answer is to be turned into one that chose better (an ``Explore``).

        Hedges come after plain claims that the host believes less than doubt pays, and words that hedge a claim go
        where it believes more.
        """
        if self.settings.unit == "answer":
            return tuple(() for _ in answers)
        said = self._said(prompts, answers)
        return tuple(
            tuple(
                place for claim, chance in zip(one.claims, read, strict=True) if (place := self._better(claim, chance))
            )
            for one, read in zip(said, self.reader(said), strict=True)
        )

    def _better(self, claim: Claim, chance: float) -> tuple[int, int] | None:
        """Where a claim is to be turned, if it is to be."""
        if self._credit(claim, self._wanted(chance)).won >= 0:
            return None
        if claim.stance == "asserted":
            whole = claim.text.endswith((".", "!", "?"))  # else words put there would be part of the claim
            return (claim.end, claim.end) if whole else None
        return claim.marker if claim.stance == "hedged" else None

    def _said(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Said]:
        split = self.splitter or (whole_answers if self.settings.unit == "answer" else rule_claims)
        return [
            Said(prompt=prompt, answer=answer, claims=claims)
            for prompt, answer, claims in zip(prompts, answers, split(answers), strict=True)
        ]

    def _wanted(self, chance: float) -> float:
        return chance if self.settings.want == "more" else 1 - chance

    def adapt(self) -> Mapping[str, float]:
        """Move the price of doubt towards what the least sure ``hedge_share`` of the claims would earn as facts.

        Which share that is, is measured on what the host reads, not on what the student hedges: where it has yet to
        learn to hedge, or hedges everything, a price that followed its hedges would run away.
        """
        seen, settings = self._seen, self.settings
        share = seen.hedged / len(seen.stood) if seen.stood else 0.0
        if settings.hedge_share is not None and seen.stood:
            fair = _quantile(seen.stood, settings.hedge_share)
            self.price += settings.hedge_step * (min(max(fair, -1.0), 1.0) - self.price)
        self._seen = _Tally()
        return {"hedge_share": share, "hedge_price": self.price}

    def state(self) -> Mapping[str, float]:
        """The price."""
        return {"price": self.price}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from a price."""
        self.price = state["price"]
        self._seen = _Tally()


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


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
