"""A made-up comparison and trace, for pages and tables that need no model."""

import random

from snello.bundled.problems import pose
from snello.evaluation.measures import Reply, compare_paired, summarize
from snello.evaluation.report import CurvePoint, Report
from snello.evaluation.trace import HeadTrace, Trace

WINDOW = 16


def make_trace(*, num_layers=4, num_heads=2, tokens=None) -> Trace:
    """A text whose heads keep at random, each with its own rate."""
    problem = pose("ledger", level=1, seed=7)
    prompt = [f" {word}" for word in f"<|user|> {problem.question} <|end|>".split()]
    tokens = tokens or [*prompt, *(f" {word}" for word in problem.reply.split())]
    dice = random.Random(0)
    heads = []
    for layer in range(num_layers):
        for head in range(num_heads):
            rate = dice.choice((0.02, 0.1, 0.3))
            gone = [
                None if dice.random() < rate or p + WINDOW + 1 >= len(tokens) else p + WINDOW + 2
                for p in range(len(tokens))
            ]
            heads.append(HeadTrace(layer=layer, head=head, gone_at=tuple(gone)))
    return Trace(
        tokens=tuple(tokens),
        num_prompt_tokens=min(len(prompt), len(tokens) - 1),
        window_tokens=WINDOW,
        heads=tuple(heads),
    )


def make_replies(num_right: int, *, live: float) -> list[Reply]:
    """Two hundred replies, the first `num_right` of them right."""
    return [
        Reply(
            is_right=index < num_right,
            text=" 4</think> 4",
            token_ids=tuple(range(60)),
            num_stored_tokens=439,
            peak_live_tokens=live,
            peak_bytes=int(live * 8 * 256),
            kv_reads=60 * live,
        )
        for index in range(200)
    ]


def make_report(**changes) -> Report:
    """A whole report of made-up figures."""
    runs = {
        "dense": (195, 439.0, None),
        "sparse": (192, 71.5, WINDOW),
        "window": (9, 72.0, 71),
    }
    replies = {name: make_replies(right, live=live) for name, (right, live, _) in runs.items()}
    dense = [reply.is_right for reply in replies["dense"]]
    parts = {
        "title": "snello: 8x less to remember",
        "problems_named": "200 ledger problems of level 1",
        "summaries": [
            summarize(name, replies[name], wall_s=12.0, peak_pool_bytes=10**6, window_tokens=window)
            for name, (_, _, window) in runs.items()
        ],
        "differences": [
            compare_paired(name, [r.is_right for r in replies[name]], "dense", dense)
            for name in ("sparse", "window")
        ],
        "trace": make_trace(),
        "answer": "4",
        "is_solved": True,
        "curve": [
            CurvePoint(
                step=step,
                target_factor=1 + 7 * min(1, step / 150),
                kept_fraction=max(0.12, 1 - step / 160),
                kl=0.01 + step / 3000,
            )
            for step in range(0, 201, 10)
        ],
        "origin": {"command": "snello demo --problems 200", "seed": "0", "commit": "unknown"},
    }
    return Report(**(parts | changes))
