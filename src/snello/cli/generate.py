"""`snello generate`: prompts in, texts and a table of what they cost out.

Knows nothing of how tokens are computed or chosen.
"""

import json
import time
from pathlib import Path
from typing import Any

from snello.cli.console import check_writable, print_table, progress_bar, say, write_json
from snello.config.engine import SamplingConfig
from snello.config.generate import GenerateConfig
from snello.engine.build import Served, serve
from snello.engine.request import Completion
from snello.engine.text import Message, TextCodec

Prompt = str | list[Message]


def run(config: GenerateConfig) -> None:
    """Answer all prompts, print texts and figures, and write them to `config.json`.

    Raises:
        ValueError: a bad prompts file, an unreadable model, a prompt that is too long; and after
            all others were answered, a request that did not fit in memory.
    """
    check_writable(config.json)
    prompts = [*config.prompt, *(read_prompts(config.prompts) if config.prompts else [])]
    served = serve(config.model, config.engine, base=config.base)
    is_chat = config.chat or (served.codec.has_chat and not config.raw)
    prompt_ids = [encode_prompt(served.codec, prompt, is_chat) for prompt in prompts]
    started = time.perf_counter()
    completions = _generate(served, prompt_ids, config.sampling)
    seconds = time.perf_counter() - started
    rows = [
        describe(completion, served.codec.decode(completion.token_ids))
        for completion in completions
    ]
    totals = sum_up(completions, seconds, served)
    _print_results(rows, totals)
    if config.json is not None:
        write_json(config.json, {"model": config.model, **totals, "completions": rows})
    refused = [row["refusal"] for row in rows if row["refusal"]]
    if refused:
        raise ValueError(f"{len(refused)} of {len(rows)} requests were refused: {refused[0]}")


def read_prompts(path: Path) -> list[Prompt]:
    """Read a JSONL file of strings, or of objects with `prompt` or `messages`.

    Raises:
        ValueError: a line that is none of these, or no line at all.
    """
    prompts: list[Prompt] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is not JSON ({error.msg}).") from error
        prompts.append(_check_prompt(record, f"{path} line {number}"))
    if not prompts:
        raise ValueError(f"{path} has no prompts; give at least one line of JSON.")
    return prompts


def _check_prompt(record: Any, place: str) -> Prompt:
    prompt = record.get("prompt", record.get("messages")) if isinstance(record, dict) else record
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt:
        messages = [m for m in prompt if isinstance(m, dict) and {"role", "content"} <= m.keys()]
        if len(messages) == len(prompt):
            return messages
    raise ValueError(
        f"{place} is no prompt; a line is a string, or an object with `prompt` (text) or "
        "`messages` (objects with `role` and `content`)."
    )


def encode_prompt(codec: TextCodec, prompt: Prompt, is_chat: bool) -> list[int]:
    """Return a prompt's ids, as a user's turn or as it is; messages are always a chat."""
    if not isinstance(prompt, str):
        return codec.encode_chat(prompt)
    if is_chat:
        return codec.encode_chat([{"role": "user", "content": prompt}])
    return codec.encode(prompt)


def describe(completion: Completion, text: str) -> dict[str, Any]:
    """Return one completion's text and figures; keys carry units."""
    return {
        "text": text,
        "finish_reason": completion.finish_reason,
        "refusal": completion.refusal,
        "prompt_tokens": completion.num_prompt_tokens,
        "generated_tokens": completion.num_generated_tokens,
        "peak_live_tokens": completion.peak_live_tokens,
        "factor": completion.factor,
        "peak_bytes": completion.peak_bytes,
        "kv_reads_tokens": completion.kv_reads,
        "token_ids": completion.token_ids,
    }


def sum_up(completions: list[Completion], seconds: float, served: Served) -> dict[str, Any]:
    """Return the figures of the whole run."""
    generated_tokens = sum(completion.num_generated_tokens for completion in completions)
    return {
        "memory": served.plan.kind,
        "window_tokens": served.plan.window_tokens,
        "generated_tokens": generated_tokens,
        "seconds": seconds,
        "tokens_per_second": generated_tokens / seconds,
        "peak_pool_bytes": served.engine.memory.peak_bytes,
    }


def _generate(
    served: Served, prompt_ids: list[list[int]], sampling: SamplingConfig
) -> list[Completion]:
    num_done = 0
    with progress_bar("generating", len(prompt_ids)) as advance:

        def count(_: Completion) -> None:
            nonlocal num_done
            num_done += 1
            advance(num_done)

        return served.engine.generate(prompt_ids, sampling, on_finish=count)


def _print_results(rows: list[dict[str, Any]], totals: dict[str, Any]) -> None:
    for number, row in enumerate(rows, start=1):
        if len(rows) > 1:
            say(f"[{number}]")
        say(row["text"])
    columns = ("request", "prompt", "generated", "ended by", "peak live", "factor", "peak bytes")
    print_table(
        f"{totals['memory']} memory",
        (*columns, "KV reads"),
        [
            (
                str(number),
                f"{row['prompt_tokens']:,}",
                f"{row['generated_tokens']:,}",
                row["finish_reason"],
                f"{row['peak_live_tokens']:,.1f}",
                f"{row['factor']:.2f}",
                f"{row['peak_bytes']:,}",
                f"{row['kv_reads_tokens']:,.0f}",
            )
            for number, row in enumerate(rows, start=1)
        ],
    )
    say(
        f"{totals['generated_tokens']:,} tokens at {totals['tokens_per_second']:,.1f} tokens/s; "
        f"at most {totals['peak_pool_bytes']:,} bytes taken from the pool"
    )
