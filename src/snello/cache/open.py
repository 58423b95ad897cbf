"""Which memory a model gets, and how large its pool must be. Knows nothing of pages' contents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from snello.cache.budgeted import BudgetedMemory
from snello.cache.dense import DenseMemory
from snello.cache.offload import WINDOW_TOKENS, OffloadMemory
from snello.cache.paged import PagedMemory
from snello.cache.quest import QuestMemory
from snello.cache.sparse import SparseMemory
from snello.cache.store import measure_page
from snello.config.dms import DecisionConfig
from snello.config.engine import MemoryKind, PolicyName, SurvivorFormat
from snello.config.model import CacheShape
from snello.config.policy import PolicyConfig
from snello.ops.narrow import FORMATS
from snello.ops.pages import count_survivor_slots
from snello.policies import (
    RULES,
    Learned,
    Policy,
    Trigonometric,
    Window,
    build_policy,
    build_quest,
    build_rule,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """A kind of memory with all that it needs to know of the model's decisions."""

    kind: MemoryKind | PolicyName
    window_tokens: int | None
    """None for dense memory, which forgets nothing, and for rules that know no window."""

    shift: Literal[0, 1] = 1

    survivors: SurvivorFormat = "same"
    """How tokens are stored that left the window."""

    rule: PolicyConfig | None = None
    """The rule that `kind` names, where that is no kind of memory."""


def choose_memory(
    decision: DecisionConfig | None,
    kind: MemoryKind | None,
    window_tokens: int | None,
    survivors: SurvivorFormat = "same",
    rule: PolicyConfig | None = None,
) -> MemoryPlan:
    """Decide on a memory: what the caller wants, completed by what the model has learned.

    Raises:
        ValueError: the wish and the model do not go together.
    """
    if rule is not None:
        return _plan_rule(rule, kind, window_tokens, survivors)
    kind = kind or ("dense" if decision is None else "sparse")
    if kind == "sparse" and decision is None:
        raise ValueError(
            "sparse memory was asked for, but this model has not learned what to forget; choose "
            "dense or window memory, or retrofit it first (snello retrofit)."
        )
    if kind == "dense":
        if window_tokens is not None:
            raise ValueError(
                f"window_tokens is {window_tokens}, but dense memory has no window; leave it out, "
                "or choose sparse or window memory."
            )
        if survivors != "same":
            raise ValueError(
                f"survivors is {survivors!r}, but dense memory has no window that tokens could "
                "leave; leave it out, or choose sparse memory."
            )
        return MemoryPlan(kind=kind, window_tokens=None)
    if window_tokens is None and decision is None:
        raise ValueError(
            "window memory needs window_tokens: how many past tokens stay readable; this model "
            "names none itself."
        )
    own_window = decision.window_tokens if decision is not None else None
    return MemoryPlan(
        kind=kind,
        window_tokens=own_window if window_tokens is None else window_tokens,
        shift=1 if decision is None else decision.shift,
        survivors=survivors,
    )


def _plan_rule(
    rule: PolicyConfig,
    kind: MemoryKind | None,
    window_tokens: int | None,
    survivors: SurvivorFormat,
) -> MemoryPlan:
    """Plan the memory of a rule that needs no training, whatever the model has learned."""
    if kind is not None or window_tokens is not None:
        raise ValueError(
            f"the policy {rule.name} was asked for, and memory {kind} with window_tokens "
            f"{window_tokens}; a policy brings its own memory and settings: leave the others out."
        )
    window = rule.numbers.get("window") if rule.name in ("streaming", "random") else None
    if window is None and survivors != "same":
        raise ValueError(
            f"survivors is {survivors!r}, but the policy {rule.name} has no window that tokens "
            "could leave; leave it out."
        )
    if rule.name in RULES:
        build_rule(rule)  # to refuse what does not go together before anything is loaded
    return MemoryPlan(
        kind=rule.name,
        window_tokens=None if window is None else int(window),
        survivors=survivors,
        rule=rule,
    )


def open_memory(
    shapes: Sequence[CacheShape],
    plan: MemoryPlan,
    *,
    budget_bytes: int,
    max_sequences: int,
    page_tokens: int = 16,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> PagedMemory:
    """Build the planned memory, empty, with a pool of at most `budget_bytes`.

    Raises:
        ValueError: what a rule has measured is of another model.
    """
    room: dict[str, Any] = {
        "budget_bytes": budget_bytes,
        "page_tokens": page_tokens,
        "max_sequences": max_sequences,
        "dtype": dtype,
        "device": device,
    }
    if plan.window_tokens is not None:
        return SparseMemory(
            shapes,
            window_tokens=plan.window_tokens,
            shift=plan.shift,
            policy=_choose_policy(plan),
            survivors=plan.survivors,
            **room,
        )
    if plan.rule is None:
        return DenseMemory(shapes, **room)
    if plan.rule.name in RULES:
        rule = build_rule(plan.rule)
        if isinstance(rule, Trigonometric):
            rule.check_suits(shapes)
        return BudgetedMemory(shapes, rule=rule, **room)
    if plan.rule.name == "offload":
        window = int(plan.rule.numbers.get("window", WINDOW_TOKENS))
        return OffloadMemory(shapes, window_tokens=window, **room)
    return QuestMemory(shapes, quest=build_quest(plan.rule), **room)


def _choose_policy(plan: MemoryPlan) -> Policy:
    if plan.rule is not None:
        return build_policy(plan.rule, plan.shift)
    return Learned() if plan.kind == "sparse" else Window()


def size_pool(
    shapes: Sequence[CacheShape],
    plan: MemoryPlan,
    *,
    num_sequences: int,
    sequence_tokens: int,
    page_tokens: int = 16,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Return the bytes that are enough even if nothing is forgotten but what a budget demands."""
    num_heads = sum(shape.num_heads for shape in shapes)
    if plan.rule is not None and plan.rule.name in RULES:
        sequence_tokens = min(sequence_tokens, build_rule(plan.rule).limit or sequence_tokens)
    survivors = FORMATS.get(plan.survivors)
    in_window = 0 if survivors is None else min(sequence_tokens, (plan.window_tokens or 0) + 1)
    slots = count_survivor_slots(page_tokens, dtype, survivors)
    # Ring and survivors each may end in a page that is not full, and a ring may turn within one.
    per_head = -(-in_window // page_tokens) + -(-(sequence_tokens - in_window) // slots) + 3
    page_bytes = measure_page(shapes, page_tokens, dtype, survivors)
    return num_sequences * num_heads * per_head * page_bytes
