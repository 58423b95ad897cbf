"""How the tokens of one request are chosen, and when it ends. Knows nothing of tensors or text."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple

MOST_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How the tokens of one request are chosen, and when it ends.

    What is done to the logits stands in this order: `logit_bias`, `repetition_penalty`,
    `frequency_penalty`, `presence_penalty`, the ban of `min_new_tokens`; then, unless the
    temperature is 0, temperature, top-k, top-p, min-p and the draw.

    Source: the order and the penalties are vLLM's; top-k, top-p and min-p follow each other as in
    `transformers`; `logit_bias`, `stop`, `logprobs` and `top_logprobs` are OpenAI's.
    """

    temperature: float = 0.0
    """0 always takes the likeliest token; 1 draws from the model's own distribution."""

    top_k: int | None = None
    """Draw among this many likeliest tokens; without it, among all."""

    top_p: float = 1.0
    """Draw among the fewest tokens that together weigh at least this much."""

    min_p: float = 0.0
    """Rule out tokens less likely than this times the likeliest."""

    repetition_penalty: float = 1.0
    """Divide the logits above 0, and multiply the others, of tokens that stand in the prompt
    (earlier turns included) or in the reply; above 1 discourages them."""

    presence_penalty: float = 0.0
    """Subtract this from the logits of tokens that stand in the reply."""

    frequency_penalty: float = 0.0
    """Subtract this from a token's logit for each time that it stands in the reply."""

    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Token ids and what is added to their logits; -100 rules out, 100 all but forces."""

    seed: int | None = None
    """The same seed and prompt give the same tokens, in any company; without it, every request has
    its own."""

    n: int = 1
    """How many replies to the prompt; reply 0 is what the seed gives alone, and each other one
    has a seed derived from it."""

    max_new_tokens: int | None = 256
    """The longest reply; without it, only the model's context ends one."""

    min_new_tokens: int = 0
    """Until so many tokens are there, end and stop tokens cannot be chosen and stop strings do not
    end the reply."""

    ignore_eos: bool = False
    """Go on after the model's own end token."""

    stop_token_ids: Sequence[int] = ()
    """Tokens that end a reply, besides the model's own end; their text is left out."""

    stop: Sequence[str] = ()
    """Texts that end a reply as soon as one stands in it; the text is cut before it. One string
    may be given as it is."""

    include_stop_str_in_output: bool = False
    """Leave the stop string, or the stop token's text, in the reply."""

    logprobs: bool = False
    """Report the natural logarithm of each chosen token's probability, by the model's own
    distribution: before bias, penalties, bans, temperature and filters."""

    top_logprobs: int = 0
    """With `logprobs`, also report this many likeliest tokens at each place."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _as_tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", _as_tuple(self.stop_token_ids))
        for rule in _RULES:
            value = getattr(self, rule.name)
            if not rule.holds(value):
                raise ValueError(
                    f"SamplingConfig.{rule.name} is {value!r}; it must be {rule.allowed}. "
                    f"{rule.advice}"
                )
        if self.top_logprobs and not self.logprobs:
            raise ValueError(
                f"SamplingConfig.top_logprobs is {self.top_logprobs} while logprobs is off; turn "
                "logprobs on, or leave top_logprobs at 0."
            )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"SamplingConfig.min_new_tokens is {self.min_new_tokens} and max_new_tokens is "
                f"{self.max_new_tokens}; the least must not be above the most. Raise "
                "max_new_tokens, or lower min_new_tokens."
            )

    @property
    def edits_logits(self) -> bool:
        """Whether logits are changed before any choice."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.min_new_tokens > 0
            or bool(self.logit_bias)
        )


SamplingParams = SamplingConfig  # the same class, under the name that users of the field know


class _Rule(NamedTuple):
    """What one field may be, and what to do if it is not."""

    name: str
    holds: Callable[[Any], bool]
    allowed: str
    advice: str


def _as_tuple(value: Any) -> tuple[Any, ...]:
    """Return a list's items, or what came by itself, so that a rule can judge it."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any, least: int) -> bool:
    return _is_integer(value) and value >= least


def _is_bias(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_count(token_id, 0) and _is_number(bias) and -100 <= bias <= 100
        for token_id, bias in value.items()
    )


_RULES = (
    _Rule(
        "temperature",
        lambda x: _is_number(x) and x >= 0,
        "0 or more",
        "0 always takes the likeliest token.",
    ),
    _Rule(
        "top_k",
        lambda x: x is None or _is_count(x, 1),
        "at least 1",
        "Leave it out to draw among all tokens.",
    ),
    _Rule(
        "top_p",
        lambda x: _is_number(x) and 0 < x <= 1,
        "above 0 and at most 1",
        "1 draws among all tokens.",
    ),
    _Rule(
        "min_p",
        lambda x: _is_number(x) and 0 <= x <= 1,
        "between 0 and 1",
        "0 rules nothing out.",
    ),
    _Rule(
        "repetition_penalty",
        lambda x: _is_number(x) and x > 0,
        "above 0",
        "1 changes nothing, 1.1 discourages a little.",
    ),
    _Rule(
        "presence_penalty",
        lambda x: _is_number(x) and -2 <= x <= 2,
        "between -2 and 2",
        "0 changes nothing.",
    ),
    _Rule(
        "frequency_penalty",
        lambda x: _is_number(x) and -2 <= x <= 2,
        "between -2 and 2",
        "0 changes nothing.",
    ),
    _Rule(
        "logit_bias",
        _is_bias,
        "token ids (0 or more) with numbers from -100 to 100",
        "Write {13: -100} to rule out token 13.",
    ),
    _Rule(
        "seed",
        lambda x: x is None or (_is_count(x, 0) and x < 2**63),
        "between 0 and 2**63 - 1",
        "Leave it out for another reply each time.",
    ),
    _Rule("n", lambda x: _is_count(x, 1), "at least 1", "It is the number of replies."),
    _Rule(
        "max_new_tokens",
        lambda x: x is None or _is_count(x, 1),
        "at least 1",
        "Use None for no limit but the model's context.",
    ),
    _Rule("min_new_tokens", lambda x: _is_count(x, 0), "0 or more", "0 asks for no least length."),
    _Rule(
        "stop_token_ids",
        lambda x: all(_is_count(token_id, 0) for token_id in x),
        "token ids, 0 or more",
        "For texts use stop.",
    ),
    _Rule(
        "stop",
        lambda x: all(isinstance(text, str) and text for text in x),
        "texts that are not empty",
        "Leave it out to stop at none; for token ids use stop_token_ids.",
    ),
    _Rule(
        "top_logprobs",
        lambda x: _is_count(x, 0) and x <= MOST_TOP_LOGPROBS,
        f"between 0 and {MOST_TOP_LOGPROBS}",
        "0 reports the chosen tokens alone.",
    ),
    *(
        _Rule(name, lambda x: isinstance(x, bool), "True or False", "It is off by default.")
        for name in ("ignore_eos", "include_stop_str_in_output", "logprobs")
    ),
)
