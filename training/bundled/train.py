"""Trains the bundled base model on problems it generates, each kind by a curriculum of size.

    python training/bundled/train.py --out runs/ledger --steps 4500
    python training/bundled/train.py --out runs/bundled --steps 3000 --start runs/ledger/model

The first starts from nothing; the second goes on from a model that has learned the ledger, and adds
the puzzles. The model card says how the bundled one came about: not in one go. Every number that
decides the result is in `recipe.py`. A run that is stopped goes on where its last checkpoint was;
`train.jsonl` beside it holds one line for each logged step. Knows nothing of forgetting: what comes
out is an ordinary Hugging Face folder.
"""

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from recipe import Recipe, build_model, build_optimizers, set_rates
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from snello.bundled.problems import KINDS, Kind, Problem, Size, answer_of, is_right, pose
from snello.bundled.tokenizer import CHAT_TEMPLATE, build_tokenizer

FIRST_OF_TAKEN_OVER = 1_000_000
"""Problems below this seed were for the earlier model."""

PUZZLES: list[Kind] = [kind for kind in KINDS if kind != "ledger"]


@dataclass
class Progress:
    """Where a run stands."""

    reaches: dict[Kind, float]
    """How hard the problems of each kind are, 0 to 1."""

    step: int = 0
    losses: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 3.0))
    """Smoothed loss on the replies, by kind."""

    num_problems: int = 0
    """Seeds used so far; the next problem gets this one."""

    started: float = field(default_factory=time.time)


def draw_batch(recipe: Recipe, progress: Progress) -> list[Problem]:
    """Problems of one kind and size, so that padding is small and short replies count as much."""
    dice = random.Random(f"{recipe.seed}/{progress.step}")
    kind: Kind = "ledger"
    if progress.reaches[kind] >= recipe.puzzles_from and dice.random() < recipe.puzzle_share:
        kind = dice.choice(PUZZLES)
    reach = progress.reaches[kind]
    num_steps = 2 + int(dice.random() * (1 + reach * 52))
    size = Size(num_steps, num_steps + dice.randint(1, 4), 16 + int(dice.random() * reach * 950))
    level = 1 + int(dice.random() * (1 + 5 * reach) * 0.999)
    num_needed = 13 * num_steps if kind == "ledger" else 60 + 20 * level
    num_problems = -(-recipe.tokens_per_step // (num_needed + size.filler_words + 24))
    seeds = range(progress.num_problems, progress.num_problems + num_problems)
    return [pose(kind, level=level, seed=seed, size=size) for seed in seeds]


def encode(
    tokenizer: Tokenizer, problems: list[Problem], prompt_weight: float
) -> tuple[Tensor, Tensor]:
    """Return token ids (B, T) padded with 0 on the right, and the weight of each as a target."""
    rows, weights = [], []
    for problem in problems:
        prompt = tokenizer.encode(f"<|user|>{problem.question}<|end|><|assistant|><think>").ids
        reply = tokenizer.encode(f"{problem.reply}<|end|>").ids
        rows.append(torch.tensor(prompt + reply))
        weights.append(torch.tensor([prompt_weight] * len(prompt) + [1.0] * len(reply)))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(weights, batch_first=True)


def loss_of(model: Qwen3ForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted next-token loss, and the plain loss on the replies alone."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (loss * weights).sum() / weights.sum(), loss[weights == 1.0].mean()


@torch.no_grad()
def probe(
    model: Qwen3ForCausalLM, tokenizer: Tokenizer, kind: Kind, *, level: int, count: int = 24
) -> float:
    """Share of fresh problems answered right at temperature 0.8."""
    model.eval()
    right = 0
    for problem in (pose(kind, level=level, seed=10**8 + i) for i in range(count)):
        prompt = tokenizer.encode(f"<|user|>{problem.question}<|end|><|assistant|><think>").ids
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=480, do_sample=True, temperature=0.8, top_k=0
        )
        right += is_right(problem, answer_of(tokenizer.decode(out[0, len(prompt) :].tolist())))
    model.train()
    return right / count


def save_model(folder: Path, model: Qwen3ForCausalLM, tokenizer: Tokenizer) -> None:
    """Write an ordinary Hugging Face folder."""
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


class Run:
    """One training run and its folder."""

    def __init__(
        self, folder: Path, recipe: Recipe, num_steps: int, start: Path | None = None
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.folder, self.recipe, self.num_steps = folder, recipe, num_steps
        self.tokenizer = build_tokenizer()
        self.model = build_model(recipe, self.tokenizer.get_vocab_size())
        self.optimizers = build_optimizers(self.model, recipe)
        self.progress = Progress(reaches=dict.fromkeys(KINDS, recipe.first_reach))
        folder.mkdir(parents=True, exist_ok=True)
        described = asdict(recipe) | {"steps": num_steps}
        (folder / "recipe.json").write_text(json.dumps(described, indent=1) + "\n")
        if (folder / "state.pt").exists():
            self.restore(torch.load(folder / "state.pt", weights_only=True))
        elif start is not None:
            self.take_over(start)

    def take_over(self, folder: Path) -> None:
        """Start with the weights of a model that has learned the ledger, and with its words.

        A word that it does not know starts near the mean of those that it knows.
        """
        earlier = Qwen3ForCausalLM.from_pretrained(folder)
        ids = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
        known, own = earlier.model.embed_tokens.weight, self.model.model.embed_tokens.weight
        with torch.no_grad():
            for word, index in self.tokenizer.get_vocab().items():
                own[index] = known[ids[word]] if word in ids else known.mean(0) + own[index] / 2
        weights = {n: p for n, p in earlier.state_dict().items() if "embed" not in n}
        weights.pop("lm_head.weight", None)
        self.model.load_state_dict(weights, strict=False)
        self.progress.reaches["ledger"] = 1.0
        self.progress.num_problems = FIRST_OF_TAKEN_OVER

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(
            reaches=state["reaches"],
            step=state["step"],
            losses=state["losses"],
            num_problems=state["seed"],
        )

    def take_step(self) -> None:
        """Draw a batch, follow its gradient, and move the curriculum."""
        recipe, progress = self.recipe, self.progress
        problems = draw_batch(recipe, progress)
        ids, weights = encode(self.tokenizer, problems, recipe.prompt_weight)
        set_rates(self.optimizers, recipe, progress.step, self.num_steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss, reply_loss = loss_of(self.model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        progress.step += 1
        progress.num_problems += len(problems)
        kind = problems[0].kind
        progress.losses[kind] = 0.9 * progress.losses[kind] + 0.1 * reply_loss.item()
        if progress.losses[kind] < recipe.curriculum_bar:
            progress.reaches[kind] = min(1.0, progress.reaches[kind] + recipe.curriculum_step)

    def log(self) -> None:
        """Append a line to train.jsonl; the last one with answers to fresh problems."""
        progress = self.progress
        row: dict[str, float] = {"step": progress.step}
        row |= {f"reach_{kind}": round(reach, 3) for kind, reach in progress.reaches.items()}
        row |= {f"loss_{kind}": round(loss, 4) for kind, loss in progress.losses.items()}
        row["num_problems"] = progress.num_problems
        row["seconds"] = round(time.time() - progress.started, 1)
        if progress.step == self.num_steps:
            row |= {f"right_{kind}_level_1": self.probe(kind, level=1) for kind in KINDS}
        with (self.folder / "train.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def probe(self, kind: Kind, *, level: int) -> float:
        """Share of fresh problems of one level answered right."""
        return probe(self.model, self.tokenizer, kind, level=level)

    def save(self) -> None:
        """Write the model, and all that is needed to go on."""
        save_model(self.folder / "model", self.model, self.tokenizer)
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.progress.step,
            "reaches": self.progress.reaches,
            "losses": self.progress.losses,
            "seed": self.progress.num_problems,
        }
        temporary = self.folder / "state.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / "state.pt")


def main() -> None:
    """Train until `--steps`, with a log line every 50 steps and a checkpoint every 250."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--start", type=Path, help="a model that has learned the ledger")
    parser.add_argument("--threads", type=int, default=2)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    run = Run(flags.out, Recipe(), flags.steps, flags.start)
    while run.progress.step < run.num_steps:
        run.take_step()
        if run.progress.step % 50 == 0:
            run.log()
        if run.progress.step % 250 == 0 or run.progress.step == run.num_steps:
            run.save()


if __name__ == "__main__":
    main()
