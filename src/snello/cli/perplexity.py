"""`snello evaluate MODEL --perplexity FILE`: what a text costs each contender, in nats.

Knows nothing of how texts are scored or contenders opened.
"""

from dataclasses import asdict
from typing import Any

from snello.cli.console import check_writable, print_table, say, write_json
from snello.config.engine import EngineConfig
from snello.config.evaluate import EvaluateConfig
from snello.engine.progress import progress_bar
from snello.evaluation.opening import Opener, check_suits
from snello.evaluation.perplexity import measure_perplexity, read_text

COLUMNS = ("contender", "nats per token", "nats per byte", "perplexity", "tokens", "peak KiB")


def run(config: EvaluateConfig) -> None:
    """Score the text with every contender, print the table and write the figures.

    Raises:
        ValueError: a text that cannot be read, or a contender that will not do.
    """
    assert config.perplexity is not None, "without a text there is nothing to score"
    check_writable(config.json)
    text = read_text(config.perplexity)
    for contender in config.parsed_contenders:
        check_suits(contender)
    rows = score_contenders(config, text)
    cells = [
        (
            row["contender"],
            f"{row['nats_per_token']:.4f}",
            f"{row['nats_per_byte']:.4f}",
            f"{row['perplexity']:.3f}",
            f"{row['tokens']:,}",
            f"{row['peak_bytes'] / 1024:,.0f}",
        )
        for row in rows
    ]
    print_table(f"{config.perplexity}, {len(text.encode()):,} bytes", COLUMNS, cells)
    say("the first token is not counted; peak KiB: the most that the memory held.")
    if config.json is not None:
        write_json(config.json, {"settings": describe_settings(config), "contenders": rows})


def score_contenders(config: EvaluateConfig, text: str) -> list[dict[str, Any]]:
    """Return each contender's figures; keys carry units."""
    opener = Opener(
        EngineConfig(
            max_sequences=config.batch,
            device=config.device,
            weights=config.weights,
            weights_group=config.weights_group,
        ),
        config.base,
    )
    rows: list[dict[str, Any]] = []
    with progress_bar("perplexity", len(config.parsed_contenders)) as advance:
        for contender in config.parsed_contenders:
            served = opener.open(contender).served
            found = measure_perplexity(
                served.engine,
                served.codec.encode(text),
                len(text.encode()),
                window_tokens=config.perplexity_tokens,
            )
            rows.append(
                {
                    "contender": contender.name,
                    "nats_per_token": found.nats_per_token,
                    "nats_per_byte": found.nats_per_byte,
                    "perplexity": found.perplexity,
                    "tokens": found.num_tokens,
                    "bytes": found.num_bytes,
                    "peak_bytes": served.engine.memory.peak_bytes,
                }
            )
            advance(len(rows))
    return rows


def describe_settings(config: EvaluateConfig) -> dict[str, Any]:
    """Return what the figures depend on."""
    names = ("perplexity", "perplexity_tokens", "batch", "device", "weights", "weights_group")
    settings = asdict(config)
    return {name: settings[name] for name in names} | {"perplexity": str(config.perplexity)}
