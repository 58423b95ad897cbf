"""`snello retrofit`: from a base and data to an adapter, with what it cost and what it gives.

Knows nothing of how a step is taken.
"""

from dataclasses import replace

from snello.cli.console import check_writable, print_table, say, write_json
from snello.cli.origin import describe_origin
from snello.config.engine import EngineConfig, SamplingConfig
from snello.config.retrofit import RetrofitConfig
from snello.engine.build import serve
from snello.engine.progress import progress_bar
from snello.models.adapter import find_base
from snello.models.families import read_model_config
from snello.retrofit.documents import open_writer
from snello.retrofit.processes import count_processes
from snello.retrofit.records import open_source
from snello.retrofit.runfolder import check_folder, open_folder
from snello.retrofit.traces import TRACES, count_replies, write_traces
from snello.retrofit.trainer import Outcome
from snello.retrofit.trainer import run as retrofit


def run(config: RetrofitConfig) -> None:
    """Retrofit a model, or go on with a run that was stopped; print what came out of it.

    Raises:
        ValueError: settings, base, data or folder that will not do; nothing has been written then.
        OSError: the disk is full; what was saved before stays.
        KeyboardInterrupt: Ctrl-C; the same command goes on.
    """
    check_writable(config.json)
    check_folder(config)
    if config.replies == "base" and not (config.out / TRACES).exists():
        write_base_replies(config)
    origin = describe_origin(seed=config.seed)
    del origin["date"]  # a resumed run leaves what the uninterrupted one would have left
    outcome = retrofit(config, origin=origin)
    if not outcome.is_first:
        return
    if not outcome.is_finished:
        say(f"stopped after step {outcome.step} of {config.steps}; the same command goes on.")
        raise KeyboardInterrupt
    report(config, outcome)


def write_base_replies(config: RetrofitConfig) -> None:
    """Let the base answer the prompts in the data, with dense memory.

    Raises:
        ValueError: several processes, or a base or data that cannot be read.
    """
    if count_processes() > 1:
        raise ValueError(
            "replies of the base are written by one process; start once without the launcher, "
            f"stop when {TRACES} is there, and start again with it."
        )
    source = open_source(config.data, config.mixture)
    folder = find_base(config.base)
    writer = open_writer(folder, read_model_config(folder).vocab_size)
    engine = EngineConfig(
        memory="dense",
        max_sequences=config.traces.batch_sequences,
        device="cuda" if (config.device or "").startswith("cuda") else "cpu",
        dtype=config.body_dtype,
    )
    served = serve(config.base, engine)
    sampling = SamplingConfig(
        temperature=config.traces.temperature,
        top_p=config.traces.top_p,
        max_new_tokens=config.traces.max_reply_tokens,
    )

    def generate(prompts: list[list[int]], first: int) -> list[list[int]]:
        seeds = [config.seed * 2**32 + first + i for i in range(len(prompts))]
        wishes = [replace(sampling, seed=seed) for seed in seeds]
        return [reply.token_ids for reply in served.engine.generate(prompts, wishes)]

    open_folder(config)
    with progress_bar("replies of the base", count_replies(source, config.traces)) as advance:
        write_traces(config.out, source, writer, config.traces, generate, on_batch=advance)


def report(config: RetrofitConfig, outcome: Outcome) -> None:
    """Print the figures of a finished run, and write them to `config.json`."""
    figures = {
        "base": config.base,
        "out": str(outcome.folder),
        "train": config.train,
        "variant": config.variant,
        "steps": outcome.step,
        "factor": config.factor,
        "window_tokens": config.window_tokens,
        "trained_numbers": outcome.num_trained,
        "measured_factor": outcome.measured_factor,
        "measured_kl_nats": outcome.measured_kl,
    }
    print_table(
        f"retrofit of {config.base}",
        ("trained", "numbers", "steps", "factor", "window", "measured factor", "KL (nats)"),
        [
            (
                f"{config.train} ({config.variant})",
                f"{outcome.num_trained:,}",
                f"{outcome.step:,}",
                f"{config.factor:g}",
                f"{config.window_tokens}",
                f"{outcome.measured_factor:.2f}",
                f"{outcome.measured_kl:.4f}",
            )
        ],
    )
    say(f"written to {outcome.folder}; try: snello generate {outcome.folder} --prompt ...")
    if config.json is not None:
        write_json(config.json, figures)
