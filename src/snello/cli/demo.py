"""`snello demo`: a retrofit, a comparison and a report, in a few minutes on a small machine.

Knows nothing of how any of the three is done; the recipe that suits the bundled model stands here.
"""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from snello.bundled.problems import Problem
from snello.cli.console import check_writable, say, write_json, write_text
from snello.cli.evaluate import (
    gather_figures,
    name_problems,
    open_by_kind,
    show_comparison,
    start_bar,
)
from snello.cli.origin import describe_origin
from snello.config.demo import DemoConfig
from snello.config.engine import EngineConfig
from snello.config.evaluate import EvaluateConfig
from snello.config.retrofit import MixtureSettings, RetrofitConfig
from snello.engine.build import Served
from snello.evaluation.compare import Comparison, Open, compare
from snello.evaluation.report import CurvePoint, Report, render
from snello.evaluation.tasks.bundled import pose_fresh
from snello.evaluation.trace import Trace
from snello.evaluation.watch import watch
from snello.retrofit import trainer
from snello.retrofit.runfolder import LOG

KINDS = ("ledger",)


def run(config: DemoConfig) -> None:
    """Retrofit, compare, report; all that is made lies in `config.out`.

    Raises:
        ValueError: settings, or a folder that holds something else; nothing has been written then.
        KeyboardInterrupt: Ctrl-C; the same command goes on where the retrofit was.
    """
    check_writable(config.json)
    check_writable(config.out / "report.html")
    evaluation = plan_evaluation(config)
    problems = pose_fresh(config.problems, kinds=KINDS, levels=config.level, seed=config.seed)
    started = time.perf_counter()
    recipe = choose_recipe(config)
    say(f"1/3 retrofit of {recipe.base} to factor {config.factor:g}, {config.steps} steps")
    origin = describe_origin(seed=config.seed)
    if not trainer.run(recipe, origin=origin).is_finished:
        raise KeyboardInterrupt
    trained_s = time.perf_counter() - started
    say(f"2/3 {name_problems(len(problems), KINDS, config.level)}, three memories")
    engine = EngineConfig(max_sequences=evaluation.batch)
    open_memory = open_by_kind(recipe.out, recipe.base, engine)
    with ExitStack() as bars:
        comparison = compare(
            open_memory,
            problems,
            evaluation.sampling,
            memories=evaluation.memories,
            start=lambda kind: start_bar(bars, kind, len(problems)),
        )
    show_comparison(comparison, name_problems(len(problems), KINDS, config.level))
    say("3/3 report")
    report = gather_report(config, comparison, open_memory, problems, origin)
    figures = gather_figures(evaluation, comparison) | {
        "retrofit_s": trained_s,
        "demo_s": time.perf_counter() - started,
        "origin": origin,
    }
    leave(config, report, figures)


def choose_recipe(config: DemoConfig) -> RetrofitConfig:
    """Return the retrofit that suits a model of bundled size and two cores."""
    return RetrofitConfig(
        base=config.base,
        out=config.out / "model",
        factor=config.factor,
        window_tokens=config.window_tokens,
        train="lora",
        mixture=MixtureSettings(kinds=KINDS, levels=tuple(sorted({1, 2, 3, *config.level}))),
        steps=config.steps,
        ramp_steps=max(1, config.steps * 6 // 10),
        cooldown_steps=config.steps // 5,
        batching="padded",
        rows=8,
        accumulation=1,
        learning_rate=1e-3,
        body_learning_rate=1e-3,
        seed=config.seed,
        log_every_steps=max(1, config.steps // 50),
    )


def plan_evaluation(config: DemoConfig) -> EvaluateConfig:
    """Return the comparison that `snello evaluate` would make with these settings."""
    return EvaluateConfig(
        model=str(config.out / "model"),
        baseline=config.base,
        problems=config.problems,
        level=config.level,
        kinds=KINDS,
        seed=config.seed,
    )


def gather_report(
    config: DemoConfig,
    comparison: Comparison,
    open_memory: Open,
    problems: list[Problem],
    origin: dict[str, str],
) -> Report:
    """Put together all that the page shows; one solved problem is read again under watch."""
    replies = comparison.runs["sparse"].replies
    chosen = next((i for i, reply in enumerate(replies) if reply.is_right), 0)
    trace = watch_reply(open_memory("sparse", None), problems[chosen], replies[chosen].token_ids)
    return Report(
        title=f"snello: {trace.factor:.1f} times less to remember",
        problems_named=name_problems(len(problems), KINDS, config.level),
        summaries=comparison.summaries,
        differences=comparison.differences,
        trace=trace,
        answer=problems[chosen].answer,
        is_solved=replies[chosen].is_right,
        curve=read_curve(config.out / "model" / LOG),
        origin=origin,
    )


def watch_reply(served: Served, problem: Problem, reply_ids: tuple[int, ...]) -> Trace:
    """Let the model read a problem and its own reply again, and note what each head keeps."""
    prompt_ids = served.codec.encode_chat(problem.messages)
    return watch(served, [*prompt_ids, *reply_ids], num_prompt_tokens=len(prompt_ids))


def read_curve(log: Path) -> list[CurvePoint]:
    """Return the logged steps of a retrofit, over all its starts."""
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return [
        CurvePoint(
            step=row["step"],
            target_factor=row["factor"],
            kept_fraction=row["kept_fraction"],
            kl=row["kl"],
        )
        for row in rows
    ]


def leave(config: DemoConfig, report: Report, figures: dict[str, Any]) -> None:
    """Write page and figures, and say where they lie."""
    page = config.out / "report.html"
    write_text(page, render(report))
    write_json(config.out / "results.json", figures)
    if config.json is not None:
        write_json(config.json, figures)
    say(f"retrofit {figures['retrofit_s']:.0f} s, all {figures['demo_s']:.0f} s")
    say(f"open {page.absolute()}")
