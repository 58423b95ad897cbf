"""One memory answers all problems: from questions to judged replies with what each one cost.

Knows nothing of how memories differ; that is `compare`'s.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from snello.bundled.problems import Problem
from snello.config.engine import SamplingConfig
from snello.engine.build import Served
from snello.engine.request import Completion
from snello.engine.text import TextCodec
from snello.evaluation.measures import Reply, Summary, summarize
from snello.evaluation.tasks.bundled import judge

Advance = Callable[[int], None]
"""Told how many problems are done, for progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one memory made of all problems, in their order."""

    memory: str
    window_tokens: int | None
    replies: list[Reply]
    wall_s: float
    peak_pool_bytes: int

    @property
    def is_right(self) -> list[bool]:
        """The verdict on each problem."""
        return [reply.is_right for reply in self.replies]

    @property
    def summary(self) -> Summary:
        """Means and intervals."""
        return summarize(
            self.memory,
            self.replies,
            wall_s=self.wall_s,
            peak_pool_bytes=self.peak_pool_bytes,
            window_tokens=self.window_tokens,
        )


def run_policy(
    served: Served,
    problems: Sequence[Problem],
    sampling: SamplingConfig,
    *,
    advance: Advance = lambda _: None,
) -> Run:
    """Let a model with its memory answer all problems, and judge the replies.

    Without `sampling.max_new_tokens`, replies are cut where `limit_replies` says. Problem i is
    sampled with the seed `sampling.seed + i`, whatever the memory: two
    memories that give the same logits give the same replies.

    Raises:
        ValueError: a problem can never fit in the memory.
    """
    prompts = [served.codec.encode_chat(problem.messages) for problem in problems]
    seed = sampling.seed or 0
    limit = sampling.max_new_tokens or limit_replies(problems, served.codec)
    wishes = [
        replace(sampling, seed=seed + index, max_new_tokens=limit) for index in range(len(problems))
    ]
    num_done = 0

    def count(_: Completion) -> None:
        nonlocal num_done
        num_done += 1
        advance(num_done)

    started = time.perf_counter()
    completions = served.engine.generate(prompts, wishes, on_finish=count)
    wall_s = time.perf_counter() - started
    return Run(
        memory=served.plan.kind,
        window_tokens=served.plan.window_tokens,
        replies=[
            read_reply(problem, completion, served.codec)
            for problem, completion in zip(problems, completions, strict=True)
        ],
        wall_s=wall_s,
        peak_pool_bytes=served.engine.memory.peak_bytes,
    )


def limit_replies(problems: Sequence[Problem], codec: TextCodec) -> int:
    """Return twice the tokens of the longest reply that solves one of the problems."""
    return 2 * max(len(codec.encode(problem.reply)) for problem in problems)


def read_reply(problem: Problem, completion: Completion, codec: TextCodec) -> Reply:
    """Judge one completion.

    Raises:
        ValueError: the memory refused it, so that there is nothing to judge.
    """
    if completion.refusal is not None:
        raise ValueError(completion.refusal)
    text = codec.decode(completion.token_ids)
    return Reply(
        is_right=judge(problem, text),
        text=text,
        token_ids=tuple(completion.token_ids),
        num_stored_tokens=completion.num_seen_tokens,
        peak_live_tokens=completion.peak_live_tokens,
        peak_bytes=completion.peak_bytes,
        kv_reads=completion.kv_reads,
    )
