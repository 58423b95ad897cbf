"""`snello quantize`: a folder with weights in int8 or int4, and a table of what that changed.

Knows nothing of how weights are rounded or laid out.
"""

from pathlib import Path

from snello.cli.console import check_writable, print_table, say, write_json
from snello.config.quantize import QuantizeConfig
from snello.engine.progress import progress_bar
from snello.models.adapter import load_model
from snello.models.checkpoint import base_parameters
from snello.models.quantized_folder import Figures, write_quantized
from snello.quant.rounding import BITS


def run(config: QuantizeConfig) -> None:
    """Load, round, write, and print the figures.

    Raises:
        ValueError: an unreadable model, one that cannot be quantized, or a folder that is in use.
    """
    check_writable(config.json)
    check_empty(config.out)
    loaded = load_model(config.model, config.base)
    with progress_bar("rounding", len(base_parameters(loaded.decoder))) as advance:
        bits = BITS[config.weights]
        figures = write_quantized(config.out, loaded, bits, config.group, advance=advance)
    _print_figures(config, figures)
    if config.json is not None:
        write_json(
            config.json,
            {
                "model": config.model,
                "weights": config.weights,
                "group": config.group,
                **figures._asdict(),
            },
        )


def check_empty(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        ValueError: it does, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --out must name a folder that is new or empty.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; --out must name a folder that is new or empty.")


def _print_figures(config: QuantizeConfig, figures: Figures) -> None:
    rows = [
        (
            config.weights,
            str(config.group),
            f"{figures.num_weights:,}",
            f"{figures.original_bytes / 1e6:,.1f}",
            f"{figures.written_bytes / 1e6:,.1f}",
            f"{figures.relative_error:.2%}",
        )
    ]
    columns = ("weights", "group", "rounded", "MB in float32", "MB written", "relative error")
    print_table(f"{config.model} quantized", columns, rows)
    say(f"written to {config.out}; run it with: snello generate {config.out} --prompt TEXT")
