"""All contenders answer all questions with all threads; every finished chain is written down.

Knows nothing of what the records amount to; that is `cells`'. What is there already, from an
earlier start, is not computed again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from snello.config.contender import Contender
from snello.config.sampling import SamplingConfig
from snello.engine.build import Served
from snello.engine.text import TextCodec
from snello.evaluation.chains import Chain, Plan, grow_chains, seed_chain
from snello.evaluation.energy import EnergyMeter
from snello.evaluation.kv_bytes import ReadPrice, price_reads
from snello.evaluation.opening import Opener, match_budget
from snello.evaluation.record import Cut, Key, Record
from snello.evaluation.sweep_folder import Session, SweepFolder
from snello.evaluation.task import Question, Task

Advance = Callable[[int], None]
Bar = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a progress bar of this name and size."""

CERTAIN_ENDS = ("eos", "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What is asked of whom."""

    contenders: tuple[Contender, ...]
    tasks: Mapping[str, Task]
    """Each under the name that was written, its settings included: records say this."""

    questions: Mapping[str, Sequence[Question]]
    """For each name of a task."""

    most_threads: int
    lengths_tokens: tuple[int, ...]
    sampling: SamplingConfig
    seed: int

    def keys(self, contender: Contender) -> Iterator[Key]:
        """All chains of a contender."""
        for task, questions in self.questions.items():
            for question in questions:
                for chain in range(self.most_threads):
                    yield Key(contender.name, task, question.name, chain)


def run_sweep(
    sweep: Sweep, folder: SweepFolder, session: Session, opener: Opener, bar: Bar
) -> None:
    """Let each contender in turn compute the chains that it lacks.

    Raises:
        ValueError: a contender that cannot be opened, or a prompt that does not fit.
    """
    for place, named in enumerate(sweep.contenders):
        contender = match_budget(sweep.contenders, place, folder.records) or named
        num_all = sum(1 for _ in sweep.keys(contender))
        num_missing = sum(key not in folder.records for key in sweep.keys(contender))
        if not num_missing:
            continue
        opened = opener.open(contender)
        served = opened.served
        session.note(
            {
                "event": "open",
                "session": session.number,
                "contender": contender.name,
                "memory": served.plan.kind,
                "window_tokens": served.plan.window_tokens,
                "nominal_factor": opened.nominal_factor,
                "most_chains_at_once": served.engine.max_sequences,
            }
        )
        with bar(contender.name, num_all) as advance, EnergyMeter() as energy:
            figures = _run_contender(sweep, contender, served, folder, session, advance)
        session.note(
            {
                "event": "close",
                "session": session.number,
                "contender": contender.name,
                **figures,
                "cpu_joules": energy.joules.cpu,
                "gpu_joules": energy.joules.gpu,
            }
        )


def _run_contender(
    sweep: Sweep,
    contender: Contender,
    served: Served,
    folder: SweepFolder,
    session: Session,
    advance: Advance,
) -> dict[str, float]:
    """Compute all that is missing; return what it took."""
    started, num_tokens = time.perf_counter(), 0
    num_done = sum(key in folder.records for key in sweep.keys(contender))
    price = price_reads(served.engine.memory, served.plan.window_tokens)
    for name, task in sweep.tasks.items():
        questions = {question.name: question for question in sweep.questions[name]}
        plans = (
            plan
            for question in questions.values()
            if (plan := plan_question(sweep, contender, name, question, served.codec, folder))
        )
        for chain in grow_chains(served.engine, plans, sweep.sampling):
            key = Key(contender.name, name, chain.name, chain.chain)
            cuts = judge_chain(sweep, task, questions[chain.name], chain, served.codec, price)
            prompt_bytes = price.weigh(chain.prompt_kv_reads, 0, chain.prompt_tokens)
            session.append(
                make_record(key, session.number, chain, cuts, prompt_bytes, served.codec)
            )
            num_tokens += len(chain.token_ids)
            num_done += 1
            advance(num_done)
    return {
        "wall_s": time.perf_counter() - started,
        "generated_tokens": num_tokens,
        "peak_pool_bytes": served.engine.memory.peak_bytes,
        "preemptions": served.engine.tally.num_preemptions,
    }


def plan_question(
    sweep: Sweep,
    contender: Contender,
    task: str,
    question: Question,
    codec: TextCodec,
    folder: SweepFolder,
) -> Plan | None:
    """Return which chains of a question are still to be computed; None where all are there."""
    missing = [
        chain
        for chain in range(sweep.most_threads)
        if Key(contender.name, task, question.name, chain) not in folder.records
    ]
    if not missing:
        return None
    return Plan(
        name=question.name,
        prompt_ids=encode_question(question, codec),
        seeds={chain: seed_chain(sweep.seed, task, question.name, chain) for chain in missing},
        lengths_tokens=tuple(sorted({bound(question, n) for n in sweep.lengths_tokens})),
    )


def encode_question(question: Question, codec: TextCodec) -> list[int]:
    """Return the ids of a prompt, up to where the reply begins."""
    return (
        codec.encode_chat(question.messages) if question.messages else codec.encode(question.text)
    )


def bound(question: Question, length_tokens: int) -> int:
    """Return how long a reply may be where the sweep says `length_tokens`."""
    return min(length_tokens, question.most_new_tokens or length_tokens)


def judge_chain(
    sweep: Sweep,
    task: Task,
    question: Question,
    chain: Chain,
    codec: TextCodec,
    price: ReadPrice,
) -> tuple[Cut, ...]:
    """Read and judge what a chain had said at each length."""
    marks = {mark.num_tokens: mark for mark in chain.marks}
    num_tokens = len(chain.token_ids)
    scores: dict[str | None, float] = {}  # judging may mean to run a program
    cuts = []
    for length in sweep.lengths_tokens:
        num_read = min(num_tokens, bound(question, length))
        mark = marks[num_read]
        answer = task.read(question, codec.decode(chain.token_ids[:num_read]))
        if answer not in scores:
            scores[answer] = task.judge(question, answer)
        cuts.append(
            Cut(
                length_tokens=length,
                generated_tokens=num_read,
                is_cut=num_read < num_tokens or chain.finish_reason not in CERTAIN_ENDS,
                answer=answer,
                score=scores[answer],
                stored_tokens=chain.prompt_tokens + num_read - 1,
                reply_kv_reads=mark.kv_reads,
                reply_kv_bytes=price.weigh(
                    mark.kv_reads, chain.prompt_tokens, chain.prompt_tokens + num_read - 1
                ),
                peak_live_tokens=mark.peak_live_tokens,
                peak_bytes=mark.peak_bytes,
            )
        )
    return tuple(cuts)


def make_record(
    key: Key,
    session: int,
    chain: Chain,
    cuts: tuple[Cut, ...],
    prompt_kv_bytes: float,
    codec: TextCodec,
) -> Record:
    """Put together what is written down of a chain."""
    return Record(
        key=key,
        session=session,
        seed=chain.seed,
        finish_reason=chain.finish_reason,
        text=codec.decode(chain.token_ids),
        prompt_tokens=chain.prompt_tokens,
        prompt_kv_reads=chain.prompt_kv_reads,
        prompt_kv_bytes=prompt_kv_bytes,
        cuts=cuts,
    )
