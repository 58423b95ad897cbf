"""From a path or a hub name to a folder on this machine. Knows nothing of what is in it."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def find_folder(name: str | Path) -> Path:
    """Return the folder of a model: itself if it is one, else downloaded (or cached) by its name.

    Raises:
        ValueError: it is neither a folder nor a name that the hub, or its cache, knows.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{path} is a file; give the model folder that holds config.json.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) or str(name)[0] in "./~":
        raise ValueError(
            f"{name} does not exist; give a model folder, or a hub name such as 'Qwen/Qwen3-8B'."
        )
    try:
        return Path(snapshot_download(str(name), allow_patterns=WANTED))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{name} is no folder here, and the hub did not give it ({reason}). "
            "Give a model folder, or check the name and the connection."
        ) from None
