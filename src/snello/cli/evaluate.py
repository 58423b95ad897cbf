"""`snello evaluate`: the same problems, several memories, one table; with `--out`, a sweep.

Knows nothing of how problems are posed, replies judged or figures computed.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from snello.cache.open import choose_memory
from snello.cli import perplexity, sweep
from snello.cli.console import check_writable, print_table, say, write_json
from snello.config.engine import EngineConfig, MemoryKind
from snello.config.evaluate import EvaluateConfig
from snello.engine.build import Served, build_engine, pack_weights
from snello.engine.progress import progress_bar
from snello.engine.text import TextCodec
from snello.evaluation.compare import Comparison, Open, compare
from snello.evaluation.measures import as_figures
from snello.evaluation.report.tables import COLUMNS, describe_results
from snello.evaluation.run import Advance
from snello.evaluation.tasks.bundled import pose_fresh
from snello.models.adapter import load_model

OF_A_SWEEP = (
    *("out", "policies", "contenders", "tasks", "questions", "threads", "lengths", "metric"),
    *("portraits", "perplexity", "perplexity_tokens"),
)


def run(config: EvaluateConfig) -> None:
    """Pose the problems, let every memory answer them, print the table and write the figures.

    Raises:
        ValueError: an unknown kind or level, an unreadable model, a memory that does not suit it.
    """
    if config.out is not None:
        sweep.run(config)
        return
    if config.perplexity is not None:
        perplexity.run(config)
        return
    check_writable(config.json)
    problems = pose_fresh(
        config.problems, kinds=config.kinds, levels=config.level, seed=config.seed
    )
    open_memory = open_by_kind(
        config.model,
        config.baseline or config.model,
        EngineConfig(
            max_sequences=config.batch,
            device=config.device,
            weights=config.weights,
            weights_group=config.weights_group,
            kv_dtype=config.kv_dtype,
            survivors=config.survivors,
        ),
        base=config.base,
    )
    with ExitStack() as bars:
        comparison = compare(
            open_memory,
            problems,
            config.sampling,
            memories=config.memories,
            start=lambda kind: start_bar(bars, kind, len(problems)),
        )
    show_comparison(comparison, name_problems(config.problems, config.kinds, config.level))
    if config.json is not None:
        write_json(config.json, gather_figures(config, comparison))


def open_by_kind(
    sparse_model: str | Path,
    other_model: str | Path,
    engine: EngineConfig,
    *,
    base: Path | None = None,
) -> Open:
    """Return what builds an engine for one memory; each model is read once.

    `sparse` runs on the model that learned to forget, `dense` and `window` on the other one, which
    may be the same; of narrow survivors, `sparse` alone has any.
    """
    loaded = {path: load_model(path, base) for path in {str(sparse_model), str(other_model)}}
    for model in loaded.values():
        pack_weights(model.decoder, engine.weights, engine.weights_group)

    def open_memory(kind: MemoryKind, window_tokens: int | None) -> Served:
        model = loaded[str(sparse_model if kind == "sparse" else other_model)]
        codec = TextCodec(model.folder)
        survivors = engine.survivors if kind == "sparse" else "same"
        plan = choose_memory(model.decision, kind, window_tokens, survivors)
        return Served(
            engine=build_engine(model, plan, engine, eos_ids=codec.eos_ids), codec=codec, plan=plan
        )

    return open_memory


def start_bar(bars: ExitStack, kind: str, total: int) -> Advance:
    """Close the bar before, and open one for this memory."""
    bars.close()
    advance: Advance = bars.enter_context(progress_bar(f"{kind} memory", total))
    return advance


def show_comparison(comparison: Comparison, title: str) -> None:
    """Print the table, and below it what its figures mean."""
    rows = describe_results(comparison.summaries, comparison.differences)
    print_table(title, [name for name, _ in COLUMNS], rows)
    say("factor: stored over live tokens at the end of the text; intervals are 95 %.")


def name_problems(count: int, kinds: Sequence[str], levels: Sequence[int]) -> str:
    """Say what was asked, as in `200 ledger problems of level 1`."""
    word = "level" if len(levels) == 1 else "levels"
    return f"{count:,} {' and '.join(kinds)} problems of {word} {', '.join(map(str, levels))}"


def gather_figures(config: EvaluateConfig, comparison: Comparison) -> dict[str, Any]:
    """Return settings and results as one object."""
    settings = asdict(config)
    left_out = {"json", *OF_A_SWEEP}
    settings = {name: _plain(value) for name, value in settings.items() if name not in left_out}
    figures = as_figures(comparison.summaries, comparison.differences)
    replies = {
        kind: [
            {
                "is_right": reply.is_right,
                "generated_tokens": len(reply.token_ids),
                "stored_tokens": reply.num_stored_tokens,
                "peak_live_tokens": reply.peak_live_tokens,
                "peak_bytes": reply.peak_bytes,
                "kv_reads_tokens": reply.kv_reads,
            }
            for reply in run.replies
        ]
        for kind, run in comparison.runs.items()
    }
    return {"settings": settings, **figures, "replies": replies}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
