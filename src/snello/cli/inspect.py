"""`snello inspect`: which share of a text each layer and head still holds once it has been read.

Knows nothing of how decisions are made.
"""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from snello.bundled.problems import pose
from snello.cli.console import check_writable, print_table, say, write_json
from snello.config.engine import SamplingConfig
from snello.config.inspect import InspectConfig
from snello.engine.build import Served, serve
from snello.evaluation.portrait import Portrait, portray
from snello.evaluation.report.portraits import COLUMNS, describe_portraits
from snello.evaluation.tasks.bundled import find_kinds
from snello.evaluation.watch import MOST_LOOKS, watch

LivePositions = list[list[list[int]]]
"""For each layer and head, the positions that are alive."""


def run(config: InspectConfig) -> None:
    """Read the text, print the kept fractions, and write positions to `config.json`.

    Raises:
        ValueError: an unreadable model or file, or a text that does not fit.
    """
    check_writable(config.json)
    served = serve(config.model, config.engine, base=config.base)
    token_ids = _encode(served, config)
    live = read_text(served, token_ids)
    figures = measure(live, len(token_ids))
    _print_fractions(figures["kept_fraction"], served)
    portraits = portray_text(served, token_ids)
    if portraits:
        print_table("what each head keeps", COLUMNS, describe_portraits(portraits))
    say(
        f"{figures['tokens']:,} tokens, {figures['live_tokens']:,.1f} alive (mean over layers and "
        f"heads), measured factor {figures['factor']:.2f}"
    )
    if config.json is not None:
        tokens = served.codec.decode_each(token_ids)
        facts = {"model": config.model, "memory": served.plan.kind, "texts": tokens}
        drawn = [{"pattern": p.pattern, **asdict(p)} for p in portraits]
        write_json(config.json, {**facts, **figures, "portraits": drawn, "live_positions": live})


def read_text(served: Served, token_ids: list[int]) -> LivePositions:
    """Let the model read the ids, and return what is alive afterwards.

    Raises:
        ValueError: the text does not fit into the context or the memory.
    """
    engine = served.engine
    number = engine.add(token_ids, SamplingConfig(max_new_tokens=1), keep=True)
    completion = engine.wait_for(number)
    if completion.refusal is not None:
        raise ValueError(completion.refusal)
    assert completion.sequence is not None, "the request was to be kept"
    live = engine.portray(completion.sequence)
    engine.forget(completion.sequence)
    return live


def portray_text(served: Served, token_ids: list[int]) -> list[Portrait]:
    """Let the model read the ids under watch; return no portraits where nothing is forgotten."""
    if served.plan.window_tokens is None:
        return []
    stride = -(-len(token_ids) // MOST_LOOKS)
    return portray(
        [watch(served, token_ids, num_prompt_tokens=len(token_ids), stride_tokens=stride)]
    )


def measure(live: LivePositions, num_tokens: int) -> dict[str, Any]:
    """Return kept fractions per layer and head, and the measured factor."""
    fractions = [[len(positions) / num_tokens for positions in layer] for layer in live]
    kept = [fraction for layer in fractions for fraction in layer]
    mean = sum(kept) / len(kept)
    return {
        "tokens": num_tokens,
        "live_tokens": mean * num_tokens,
        "factor": 1.0 / mean,
        "kept_fraction": fractions,
    }


def _encode(served: Served, config: InspectConfig) -> list[int]:
    codec = served.codec
    if config.problem:
        problem = pose(find_kinds([config.kind])[0], level=config.level, seed=config.seed)
        return codec.encode_chat(problem.messages) + codec.encode(problem.reply)
    text = config.text if config.file is None else config.file.read_text("utf-8")
    token_ids = codec.encode(text or "")
    if not token_ids:
        raise ValueError("the text has no tokens; give a text that is not empty.")
    return token_ids


def _print_fractions(fractions: list[list[float]], served: Served) -> None:
    num_heads = max(len(layer) for layer in fractions)
    table = Table(
        "layer",
        *(f"head {head}" for head in range(num_heads)),
        title=f"kept fraction, {served.plan.kind} memory, window {served.plan.window_tokens}",
        title_justify="left",
    )
    for number, layer in enumerate(fractions):
        table.add_row(str(number), *(_shade(fraction) for fraction in layer))
    Console(highlight=False).print(table)


def _shade(fraction: float) -> Text:
    """A fraction on a ground that is brighter the more is kept; figures stay readable on it."""
    level = round(255 * fraction)
    ink = "black" if level > 127 else "white"
    return Text(f"{fraction:7.1%}", style=f"{ink} on rgb({level // 3},{level * 4 // 5},{level})")
