"""`snello evaluate --out FOLDER`: contenders, threads and lengths; tables, frontiers, a report.

Knows nothing of how chains are computed or figures come about.
"""

from pathlib import Path
from typing import Any

from snello.cli.console import check_writable, print_table, say, write_json, write_text
from snello.cli.origin import describe_origin
from snello.config.engine import EngineConfig
from snello.config.evaluate import EvaluateConfig
from snello.engine.progress import progress_bar
from snello.evaluation.cells import gather_cells
from snello.evaluation.grid import find_places
from snello.evaluation.opening import Opener, check_suits, fingerprint, read_codec
from snello.evaluation.portrait import Portrait
from snello.evaluation.report.frontiers import TITLES
from snello.evaluation.report.sweep import (
    COLUMNS,
    describe_equal_costs,
    describe_rows,
    draw_frontier_file,
    render_sweep,
)
from snello.evaluation.reread import portray_contenders
from snello.evaluation.results import (
    Results,
    as_csv,
    as_object,
    conclude,
    describe_cells,
    describe_groups,
)
from snello.evaluation.sweep import Sweep, run_sweep
from snello.evaluation.sweep_folder import SweepFolder
from snello.evaluation.task import describe_questions
from snello.evaluation.tasks.written import open_written


def run(config: EvaluateConfig) -> None:
    """Make a sweep, or go on with one; leave tables, page and pictures.

    Raises:
        ValueError: settings, a contender or a folder that will not do.
        KeyboardInterrupt: Ctrl-C; the same command goes on.
    """
    assert config.out is not None, "without a folder it is no sweep"
    check_writable(config.json)
    sweep = plan(config)
    for contender in sweep.contenders:
        check_suits(contender)
    prints = {c.model: fingerprint(c.model, config.base) for c in sweep.contenders}
    settings = describe_settings(config, prints, sweep)
    folder = SweepFolder(config.out, settings)
    opener = Opener(
        EngineConfig(
            max_sequences=config.batch,
            device=config.device,
            weights=config.weights,
            weights_group=config.weights_group,
        ),
        config.base,
    )
    with folder.start(describe_origin(seed=config.seed)) as session:
        run_sweep(sweep, folder, session, opener, progress_bar)
    cells = gather_cells(
        folder.records,
        [(contender.name, contender.method) for contender in sweep.contenders],
        {task: [q.name for q in posed] for task, posed in sweep.questions.items()},
        config.threads,
        config.lengths_tokens,
    )
    results = conclude(
        cells,
        settings=settings,
        sessions=folder.sessions,
        metric=config.metric,
        places={task: find_places(posed) for task, posed in sweep.questions.items()},
    )
    portraits = portray_contenders(sweep, folder, opener, config.portraits, progress_bar)
    leave(config.out, results, portraits, config.json)
    show(results)
    say(f"open {(config.out / 'report.html').absolute()}")


def plan(config: EvaluateConfig) -> Sweep:
    """Return what is asked of whom; lengths in tokens are those of the first contender's tokenizer.

    Raises:
        ValueError: no such model, an unknown task or setting, or rows that cannot be had.
    """
    contenders = config.parsed_contenders
    codec = read_codec(contenders[0].model, config.base)
    tasks = open_written(
        config.tasks or config.kinds,
        codec.encode,
        otherwise={"level": config.level, "problems": config.problems},
    )
    return Sweep(
        contenders=contenders,
        tasks=tasks,
        questions={name: task.pose(config.questions, config.seed) for name, task in tasks.items()},
        most_threads=max(config.threads),
        lengths_tokens=config.lengths_tokens,
        sampling=config.sampling,
        seed=config.seed,
    )


def describe_settings(
    config: EvaluateConfig, prints: dict[str, str], sweep: Sweep
) -> dict[str, Any]:
    """Return what decides the records; a sweep that goes on must have the same."""
    return {
        "contenders": [contender.name for contender in config.parsed_contenders],
        "models": prints,
        "tasks": list(sweep.tasks),
        "threads": list(config.threads),
        "lengths_tokens": list(config.lengths_tokens),
        "temperature": config.temperature,
        "seed": config.seed,
        "device": config.device,
        "weights": config.weights,
        "weights_group": config.weights_group,
        "questions": {name: describe_questions(posed) for name, posed in sweep.questions.items()},
    }


def leave(
    out: Path, results: Results, portraits: dict[str, list[Portrait]], json: Path | None
) -> None:
    """Write figures, table, page and pictures (one for each task, in order), each whole."""
    figures = as_object(results)
    write_text(out / "report.html", render_sweep(results, portraits))
    for place, task in enumerate(results.tasks):
        write_text(out / f"frontiers-{place}.svg", draw_frontier_file(results, task))
    write_json(out / "results.json", figures)
    write_text(out / "cells.csv", as_csv(describe_cells(results)))
    if results.groups:
        write_text(out / "groups.csv", as_csv(describe_groups(results)))
    if json is not None:
        write_json(json, figures)


def show(results: Results) -> None:
    """Print a table for each task, and what equal costs give."""
    for task in results.tasks:
        cells = results.of_task(task)
        rows = describe_rows(results, task)
        print_table(f"{len(cells[0].vote):,} questions of {task}", COLUMNS, rows)
        for axis, (title, _) in TITLES.items():
            columns, gaps = describe_equal_costs(results, task, axis)
            if gaps:
                print_table(f"points at equal {title}", columns, gaps)
    say(
        "factor: stored over live tokens at the end of a chain; peak live tokens and KV reads: all "
        "threads together, the prompt's reads once; intervals are 95 %."
    )
