"""From settings and a student to the plan of all batches. Knows nothing of steps or losses."""

from snello.config.retrofit import RetrofitConfig
from snello.retrofit.batches import Documents, Plan, make_plan
from snello.retrofit.documents import open_writer
from snello.retrofit.records import open_source
from snello.retrofit.student import Student
from snello.retrofit.traces import TRACES


def open_plan(config: RetrofitConfig, student: Student, *, num_processes: int) -> Plan:
    """Open the data, and decide how the rows of every step are made.

    Raises:
        ValueError: data that cannot be read, or rows that no token would leave the window of.
    """
    traces = config.out / TRACES
    if config.replies == "base" and not traces.exists():
        raise ValueError(
            f"there is no {traces} yet; `snello retrofit` lets the base write it, or give "
            "replies='data'."
        )
    source = open_source(str(traces) if config.replies == "base" else config.data, config.mixture)
    writer = open_writer(student.folder, student.decoder.config.vocab_size)
    context = min(student.decoder.config.max_positions, 32768)
    sequence_tokens = config.sequence_tokens or context
    if config.window_tokens >= sequence_tokens:
        raise ValueError(
            f"RetrofitConfig.window_tokens is {config.window_tokens} and rows have "
            f"{sequence_tokens} tokens; nothing would ever leave the window."
        )
    documents = Documents(
        write=lambda index: writer.write(source.exchange(index)),
        size=source.size,
        seed=config.seed,
    )
    return make_plan(
        documents,
        rows_of_step=config.rows * config.accumulation * num_processes,
        sequence_tokens=sequence_tokens,
        packed=config.batching == "packed",
        eos_ids=writer.eos_ids,
        prompt_weight=config.prompt_weight,
    )
