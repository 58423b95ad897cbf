"""From a contender's name to an engine that runs it; a model is read once for all that follow it.

Knows nothing of questions. This is the one place that knows how policies become memories.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from snello.cache.open import choose_memory
from snello.config.contender import Contender, find_matched
from snello.config.engine import EngineConfig, WeightFormat
from snello.engine.build import DTYPES, Served, build_engine, pack_weights
from snello.engine.text import TextCodec
from snello.evaluation.compare import fit_window
from snello.evaluation.record import Key, Record
from snello.models.adapter import LoadedModel, find_base, load_model, read_card
from snello.models.public import read_public_card_fields
from snello.policies.streaming import SINKS

_LARGE_BYTES = 2**26


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A contender, ready."""

    served: Served
    nominal_factor: float | None
    """What its retrofit aimed at, where it forgets as it has learned to."""


class Opener:
    """Builds engines on fresh memories."""

    def __init__(self, engine: EngineConfig, base: Path | None) -> None:
        self._engine, self._base = engine, base
        self._latest: tuple[tuple[str, WeightFormat | None], LoadedModel] | None = None

    def open(self, contender: Contender) -> Opened:
        """Return an engine on an empty memory.

        Raises:
            ValueError: no such model, or a policy or format that does not suit it.
        """
        kind, window_tokens = contender.memory
        config = replace(
            self._engine,
            memory=kind,
            window_tokens=window_tokens,
            weights=contender.weights or self._engine.weights,
            survivors=contender.survivors,
            kv_dtype=contender.kv_dtype,
        )
        loaded = self._load(contender.model, config)
        plan = choose_memory(loaded.decision, kind, window_tokens, config.survivors, contender.rule)
        codec = TextCodec(loaded.folder)
        engine = build_engine(loaded, plan, config, eos_ids=codec.eos_ids)
        nominal = loaded.card.factor if loaded.card and plan.kind == "sparse" else None
        return Opened(served=Served(engine=engine, codec=codec, plan=plan), nominal_factor=nominal)

    def _load(self, model: str, config: EngineConfig) -> LoadedModel:
        key = model, config.weights
        if self._latest is not None and self._latest[0] == key:
            return self._latest[1]
        self._latest = None  # two models at once may be too large
        dtype = DTYPES[config.dtype]
        loaded = load_model(model, self._base, dtype=dtype, device=config.device)
        pack_weights(loaded.decoder, config.weights, config.weights_group)
        self._latest = key, loaded
        return loaded


def check_suits(contender: Contender) -> None:
    """Refuse a policy that does not suit the model, from its folder's notes alone.

    Raises:
        ValueError: it does not, or there is no such model.
    """
    folder = find_base(contender.model)
    card = read_card(folder)
    decision = read_public_card_fields(folder)[0] if card is None else card.decision
    try:
        choose_memory(decision, *contender.memory, contender.survivors, contender.rule)
    except ValueError as error:
        raise ValueError(f"{contender.name}: {error}") from None


def match_budget(
    contenders: Sequence[Contender], place: int, records: Mapping[Key, Record]
) -> Contender | None:
    """Return a contender that matches another with its size filled in; None if it matches nobody.

    It holds as many tokens as the other's first threads did at their peak, at the longest length,
    mean over all questions.
    """
    contender, matched = contenders[place], find_matched(contenders, place)
    if not contender.is_matched or matched is None:
        return None
    peaks = [
        record.cuts[-1].peak_live_tokens
        for key, record in records.items()
        if (key.contender, key.chain) == (matched.name, 0)
    ]
    return contender.resolve(fit_size(contender, fmean(peaks)))


def fit_size(contender: Contender, live_tokens: float) -> int:
    """Return the size with which a contender holds so many tokens, rounded up."""
    if contender.method not in ("window", "streaming"):
        return math.ceil(live_tokens)
    settings = {} if contender.rule is None else contender.rule.numbers
    sinks = settings.get("sinks", SINKS) if contender.method == "streaming" else 0
    return max(1, fit_window(live_tokens) - int(sinks))


def read_codec(model: str, base: Path | None) -> TextCodec:
    """Return a model's tokenizer, without its weights.

    Raises:
        ValueError: there is no such model, or it has none.
    """
    return TextCodec(find_homes(model, base)[-1])


def find_homes(model: str, base: Path | None) -> list[Path]:
    """Return a model's own folder, and its base's behind it if it is an adapter.

    Raises:
        ValueError: there is no such model.
    """
    folder = find_base(model)
    card = read_card(folder)
    if card is None or card.base_model is None:
        return [folder]
    return [folder, find_base(base or card.base_model)]


def fingerprint(model: str, base: Path | None) -> str:
    """Return what changes when a model's files do, an adapter's base among them.

    Of files above 64 MiB only the size is told.

    Raises:
        ValueError: there is no such model.
    """
    homes = find_homes(model, base)
    mixed = hashlib.sha256()
    for path in (path for home in homes for path in sorted(home.iterdir()) if path.is_file()):
        size = path.stat().st_size
        mixed.update(f"{path.name} {size}\n".encode())
        if path.suffix in (".json", ".safetensors") and size <= _LARGE_BYTES:
            mixed.update(path.read_bytes())
    return mixed.hexdigest()[:16]
