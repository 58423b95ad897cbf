"""The small reasoning model that travels with the package, and the problems it was trained on."""

from importlib.resources import files
from pathlib import Path


def model_folder() -> Path:
    """The bundled base model: an ordinary Hugging Face folder inside the package."""
    return Path(str(files("snello.bundled") / "model"))
