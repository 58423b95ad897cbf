"""Records of chains that nobody computed, for statistics and pages that need no model."""

import random

from snello.evaluation.record import Cut, Key, Record


def make_record(  # noqa: PLR0913  (all that a test may want to set)
    contender="slim@dms",
    task="ledger",
    question="q0",
    chain=0,
    *,
    answers=("4",),
    scores=(1.0,),
    lengths=(64,),
    tokens=40,
    prompt_reads=1000.0,
    reads=200.0,
    live=50.0,
    session=0,
) -> Record:
    """One chain; `answers` and `scores` go with `lengths`."""
    cuts = tuple(
        Cut(
            length_tokens=length,
            generated_tokens=min(tokens, length),
            is_cut=tokens > length,
            answer=answer,
            score=score,
            stored_tokens=100 + min(tokens, length) - 1,
            reply_kv_reads=reads * min(tokens, length) / tokens,
            reply_kv_bytes=64 * reads * min(tokens, length) / tokens,
            peak_live_tokens=live,
            peak_bytes=int(live) * 1024,
        )
        for length, answer, score in zip(lengths, answers, scores, strict=True)
    )
    return Record(
        key=Key(contender, task, question, chain),
        session=session,
        seed=7,
        finish_reason="eos",
        text=f"thinking</think> {answers[-1]}",
        prompt_tokens=100,
        prompt_kv_reads=prompt_reads,
        prompt_kv_bytes=64 * prompt_reads,
        cuts=cuts,
    )


def make_records(contenders, *, num_questions=60, threads=8, lengths=(32, 64), task="ledger"):
    """Chains of several contenders: `contenders` maps a name to accuracy, live tokens, reads."""
    records = {}
    for name, (accuracy, live, reads) in contenders.items():
        dice = random.Random(f"made up/{name}")
        for number in range(num_questions):
            for chain in range(threads):
                tokens = dice.randrange(20, 60)
                answers, scores = [], []
                is_right = dice.random() < accuracy
                for length in lengths:
                    has_ended = tokens <= length
                    said = "4" if is_right else str(dice.choice((5, 6, 7)))
                    answers.append(said if has_ended else None)
                    scores.append(float(has_ended and is_right))
                record = make_record(
                    name,
                    task,
                    f"q{number}",
                    chain,
                    answers=answers,
                    scores=scores,
                    lengths=lengths,
                    tokens=tokens,
                    live=live,
                    reads=reads * tokens / 40,
                    prompt_reads=reads,
                )
                records[record.key] = record
    return records
