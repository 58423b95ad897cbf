"""`snello generate`: prompts in, texts and a table of what they cost out.

Knows nothing of how tokens are computed or chosen.
"""

import json
import time
from pathlib import Path
from typing import Any

from snello.cli.console import check_writable, print_table, say, write_json
from snello.config.generate import GenerateConfig
from snello.engine.build import Served, serve
from snello.engine.llm import generate_visibly
from snello.engine.outputs import SampleOutput
from snello.engine.text import Message, TextCodec
from snello.engine.text_engine import TextEngine

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
    texts = TextEngine(served.engine, served.codec)
    replies = generate_visibly(texts, prompt_ids, [config.sampling] * len(prompt_ids))
    seconds = time.perf_counter() - started
    rows = [describe(request, reply) for request, group in enumerate(replies) for reply in group]
    totals = sum_up(rows, seconds, served)
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


def describe(request: int, reply: SampleOutput) -> dict[str, Any]:
    """Return one reply's text and figures; keys carry units."""
    completion = reply.completion
    figures = {
        "request": request,
        "sample": reply.index,
        "text": reply.text,
        "finish_reason": completion.finish_reason,
        "stop_reason": reply.stop_reason,
        "refusal": completion.refusal,
        "prompt_tokens": completion.num_prompt_tokens,
        "generated_tokens": completion.num_generated_tokens,
        "peak_live_tokens": completion.peak_live_tokens,
        "factor": completion.factor,
        "peak_bytes": completion.peak_bytes,
        "kv_reads_tokens": completion.kv_reads,
        "token_ids": completion.token_ids,
    }
    if reply.logprobs is not None:
        figures["logprobs"] = [place._asdict() for place in reply.logprobs]
    return figures


def sum_up(rows: list[dict[str, Any]], seconds: float, served: Served) -> dict[str, Any]:
    """Return the figures of the whole run."""
    generated_tokens = sum(row["generated_tokens"] for row in rows)
    return {
        "memory": served.plan.kind,
        "window_tokens": served.plan.window_tokens,
        "generated_tokens": generated_tokens,
        "seconds": seconds,
        "tokens_per_second": generated_tokens / seconds,
        "peak_pool_bytes": served.engine.memory.peak_bytes,
    }


def _print_results(rows: list[dict[str, Any]], totals: dict[str, Any]) -> None:
    names = _name_rows(rows)
    for name, row in zip(names, rows, strict=True):
        if len(rows) > 1:
            say(f"[{name}]")
        say(row["text"])
    columns = ("request", "prompt", "generated", "ended by", "peak live", "factor", "peak bytes")
    print_table(
        f"{totals['memory']} memory",
        (*columns, "KV reads"),
        [
            (
                name,
                f"{row['prompt_tokens']:,}",
                f"{row['generated_tokens']:,}",
                row["finish_reason"],
                f"{row['peak_live_tokens']:,.1f}",
                f"{row['factor']:.2f}",
                f"{row['peak_bytes']:,}",
                f"{row['kv_reads_tokens']:,.0f}",
            )
            for name, row in zip(names, rows, strict=True)
        ],
    )
    say(
        f"{totals['generated_tokens']:,} tokens at {totals['tokens_per_second']:,.1f} tokens/s; "
        f"at most {totals['peak_pool_bytes']:,} bytes taken from the pool"
    )


def _name_rows(rows: list[dict[str, Any]]) -> list[str]:
    """Return the prompt's number of each row, with the reply's where a prompt has several."""
    has_several = any(row["sample"] for row in rows)
    return [
        f"{row['request'] + 1}.{row['sample'] + 1}" if has_several else str(row["request"] + 1)
        for row in rows
    ]
