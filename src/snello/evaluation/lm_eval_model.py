"""The engine as a model of lm-eval, under the name `snello`: its whole catalogue of tasks runs.

Knows nothing of tasks. lm-eval counts, prompts and scores; this file answers its three questions.
Releases of lm-eval after 0.4.13 find the class by its entry point; for 0.4.13, which has no such
door, `snello-lm-eval` opens it and then is `lm_eval`, with the same arguments.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import maybe_truncate, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from snello.config.sampling import SamplingConfig
from snello.engine.llm import open_texts

TEXTS_AT_ONCE = 256
MEANT_FOR_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
READ_ELSEWHERE = ("until", "do_sample", "max_gen_toks", "seed")
_log = logging.getLogger(__name__)


class EngineModel(TemplateLM):  # type: ignore[misc]  # lm-eval comes without types
    """What `--model snello` is.

    Texts are tokenized and cut as lm-eval's own `hf` model does it, so that figures compare.
    """

    def __init__(  # noqa: PLR0913  (what users write behind --model_args)
        self,
        pretrained: str,
        adapter: str | None = None,
        *,
        kv_memory: str | None = None,
        max_gen_toks: int = 256,
        think_end_token: str | None = None,
        seed: int = 0,
        device: str | None = None,
        batch_size: int | str | None = None,  # noqa: ARG002  (the engine fills its own batches)
        max_batch_size: int | None = None,  # noqa: ARG002
        **settings: Any,
    ) -> None:
        """Load the model.

        Args:
            pretrained: A Hugging Face folder or name, an adapter folder, or `bundled`.
            adapter: The adapter's folder, if `pretrained` is the base that it was made for.
            kv_memory: The size of the page pool, such as `2GiB`.
            max_gen_toks: The longest reply, where a task does not say.
            think_end_token: What ends a thought, such as `</think>`; what stands before it is
                dropped, and a task's stop strings count behind it only.
            seed: For tasks that sample; request i draws with `seed + i`.
            device: lm-eval says `cuda:0` where its user says nothing; without a GPU it is `cpu`.
            batch_size: Not used; `max_sequences` bounds what runs at the same time.
            max_batch_size: Not used.
            **settings: Any other field of `EngineConfig`, such as `memory=dense`.

        Raises:
            ValueError: no such model, or no such setting.
        """
        super().__init__()
        if "device" not in settings:
            has_gpu = torch.cuda.is_available() and (device or "cuda").startswith("cuda")
            settings["device"] = "cuda" if has_gpu else "cpu"
        self.pretrained = pretrained
        self.texts = open_texts(pretrained, adapter, kv_memory, settings)
        self.max_gen_toks = max_gen_toks
        self.think_end_token = think_end_token
        self.seed = seed

    @property
    def tokenizer(self) -> Any:
        """The model's own; lm-eval reads its chat template."""
        return self.texts.codec.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer where lm-eval keeps requests between runs."""
        return self.pretrained.replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return int(self.texts.codec.eos_ids[0])

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that is scored from its first token on."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def max_length(self) -> int:
        """The model's context."""
        return self.texts.engine.context_tokens

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokenize; a text that has its start token, as chat templates write it, gets no second."""
        start = self.tokenizer.bos_token
        has_start = bool(start) and string.startswith(start)
        if add_special_tokens is False or has_start:
            return self.texts.codec.encode_rendered(string)
        return self.texts.codec.encode(string)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation; without a generation prompt, its last message is to be continued.

        Raises:
            ValueError: the model has no chat template.
        """
        if add_generation_prompt:
            return self.texts.codec.render(chat_history)
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, continue_final_message=True
            )
        )

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue each context until one of its stop strings.

        Raises:
            ValueError: a context that does not fit in the memory.
        """
        prompts, wishes, stops = [], [], []
        for index, request in enumerate(requests):
            context, asked = request.args
            settings = {**normalize_gen_kwargs(asked, self.max_gen_toks)}
            stop = [text for text in settings["until"] if text]
            prompt_ids, most_tokens = maybe_truncate(
                self.tok_encode(context),
                max_gen_toks=settings["max_gen_toks"],
                max_model_len=self.max_length,
                shrink_gen_toks=True,
            )
            prompts.append(prompt_ids)
            # While a model thinks, a stop string may well stand in its thought.
            ends = () if self.think_end_token else stop
            wishes.append(self._read_wish(settings, most_tokens, ends, index))
            stops.append(stop)
        replies = self._generate(prompts, wishes, disable_tqdm)
        results = []
        for request, reply, stop in zip(requests, replies, stops, strict=True):
            text = postprocess_generated_text(reply, stop, self.think_end_token)
            self.cache_hook.add_partial("generate_until", request.args, text)
            results.append(text)
        return results

    def _read_wish(
        self, settings: dict[str, Any], most_tokens: int, stop: Sequence[str], index: int
    ) -> SamplingConfig:
        unknown = settings.keys() - {*MEANT_FOR_SAMPLING, *READ_ELSEWHERE}
        if unknown and index == 0:
            _log.warning("the engine has no settings %s; left out.", ", ".join(sorted(unknown)))
        chosen = {name: settings[name] for name in MEANT_FOR_SAMPLING if name in settings}
        if not settings["do_sample"]:
            chosen["temperature"] = 0.0
        top_k = chosen.get("top_k")
        if top_k is not None and top_k < 1:
            del chosen["top_k"]  # 0 and -1 mean all elsewhere
        seed = int(settings.get("seed") or self.seed) + index
        return SamplingConfig(max_new_tokens=most_tokens, stop=stop, seed=seed, **chosen)

    def _generate(
        self, prompts: list[list[int]], wishes: list[SamplingConfig], disable_tqdm: bool
    ) -> list[str]:
        with tqdm(total=len(prompts), disable=disable_tqdm, desc="generate_until") as bar:
            outputs = self.texts.generate(prompts, wishes, on_finish=lambda _: bar.update())
        for (output,) in outputs:
            if output.refusal is not None:
                raise ValueError(output.refusal)
        return [output.text for (output,) in outputs]

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **unused: Any,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        """Score each continuation behind its context, which is cut on the left where it must be."""
        results: list[tuple[float, bool]] = []
        with tqdm(total=len(requests), disable=disable_tqdm, desc="loglikelihood") as bar:
            for first in range(0, len(requests), TEXTS_AT_ONCE):
                part = requests[first : first + TEXTS_AT_ONCE]
                texts = [(*context, *wanted)[-self.max_length - 1 :] for _, context, wanted in part]
                scores = self.texts.engine.score(texts)
                for (key, _, wanted), found in zip(part, scores, strict=True):
                    scored = found[len(found) - len(wanted) :]
                    total = math.fsum(score.logprob for score in scored)
                    result = (total, all(score.is_likeliest for score in scored))
                    results.append(result)
                    if key is not None:
                        self.cache_hook.add_partial("loglikelihood", key, result)
                    bar.update()
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, each token once; long ones in windows with a new start each."""
        totals = []
        for request in tqdm(requests, disable=disable_tqdm, desc="loglikelihood_rolling"):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            scores = self._loglikelihood_tokens(pairs, disable_tqdm=True)
            totals.append(math.fsum(total for total, _ in scores))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals


def register() -> None:
    """Make `snello` a model that lm-eval knows, beside its own."""
    import lm_eval.models  # noqa: F401  (registers its own models, unless somebody came first)
    from lm_eval.api.registry import model_registry

    if "snello" not in model_registry:
        model_registry.register("snello", target=f"{__name__}:{EngineModel.__name__}")


def main() -> None:
    """Run lm-eval's command line with `snello` among its models."""
    from lm_eval.__main__ import cli_evaluate

    register()
    cli_evaluate()
