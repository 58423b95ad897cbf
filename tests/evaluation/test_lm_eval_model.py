"""lm-eval runs local tasks on the engine, and gets what its own model of transformers gives."""

import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import get_model
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from snello.evaluation.lm_eval_model import EngineModel, register

ROWS = [
    {"ask": "the amber bell", "options": [" rests", " waits"], "gold": 0},
    {"ask": "the tall tower", "options": [" sinks", " rises near", " bends"], "gold": 1},
    {"ask": "otter 3>home.", "options": [" 1", " 3"], "gold": 1},
]
TASKS = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{ask}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
    "reply": {
        "output_type": "generate_until",
        "doc_to_text": "{{ask}}",
        "doc_to_target": "{{options[gold]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 6},
        "metric_list": [{"metric": "exact_match"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{ask}} {{options[gold]}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
}


@pytest.fixture(scope="module")
def tasks_folder(tmp_path_factory):
    """Task files as users of lm-eval write them; JSON is YAML."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    for name, task in TASKS.items():
        source = {
            "task": f"tiny_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(rows)}},
            "test_split": "test",
        }
        (folder / f"{name}.yaml").write_text(json.dumps(source | task))
    return folder


@pytest.fixture(scope="module")
def model(tiny_folder):
    return EngineModel(pretrained=str(tiny_folder))


def make_requests(kind, *arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=index)
        for index, each in enumerate(arguments)
    ]


@pytest.fixture(scope="module", autouse=True)
def _caches(tmp_path_factory):
    """Rows that are loaded go to a folder of this run."""
    import datasets

    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    yield
    patch.undo()


@pytest.mark.filterwarnings("ignore")  # of lm-eval's own dependencies
def test_a_local_task_runs_on_the_model_by_its_name(tiny_folder, tasks_folder):
    register()
    assert get_model("snello") is EngineModel
    assert issubclass(get_model("dummy"), LM)  # its own are still there
    results = simple_evaluate(
        model="snello",
        model_args=f"pretrained={tiny_folder},memory=dense,max_sequences=2",
        tasks=["tiny_choice", "tiny_reply", "tiny_rolling"],
        task_manager=TaskManager(include_path=tasks_folder, include_defaults=False),
        bootstrap_iters=0,
    )
    assert results["samples"]["tiny_choice"][0]["resps"]
    figures = results["results"]
    assert 0 <= figures["tiny_choice"]["acc,none"] <= 1
    assert figures["tiny_rolling"]["byte_perplexity,none"] > 1
    assert len(results["samples"]["tiny_reply"]) == len(ROWS)


@pytest.mark.filterwarnings("ignore")
def test_figures_are_those_of_the_model_of_transformers(tiny_folder, model):
    hf = pytest.importorskip("lm_eval.models.huggingface")
    theirs = hf.HFLM(pretrained=str(tiny_folder), device="cpu", dtype="float32")
    pairs = [("the amber bell", " rests"), ("", "the otter waits."), ("the tall ", "tower bends")]
    long = "the amber bell rests near the mill. " * 200  # longer than the context
    asked = make_requests("loglikelihood", *pairs, (long, " rests"))
    for a, b in zip(model.loglikelihood(asked), theirs.loglikelihood(asked), strict=True):
        assert a[0] == pytest.approx(b[0], abs=1e-3)
        assert a[1] == b[1]
    asked = make_requests("loglikelihood_rolling", ("the otter waits.",), (long,))
    ours = model.loglikelihood_rolling(asked)
    assert ours == pytest.approx(theirs.loglikelihood_rolling(asked), rel=1e-5)
    asked = make_requests(
        "generate_until",
        ("the amber bell", {"until": ["."], "max_gen_toks": 8}),
        ("the tall tower", {"until": [" the"], "max_gen_toks": 5}),
    )
    assert model.generate_until(asked) == theirs.generate_until(asked)


def test_replies_end_where_they_are_told_to(model):
    (whole,) = model.generate_until(make_requests("generate_until", ("the", {"max_gen_toks": 12})))
    words = whole.split()
    stop = {"until": [words[3]], "max_gen_toks": 12}
    (cut,) = model.generate_until(make_requests("generate_until", ("the", stop)))
    assert cut == whole.partition(words[3])[0]


def test_stop_strings_do_not_count_while_it_thinks(model, monkeypatch):
    model.think_end_token = "</think>"
    seen = []

    def generate(prompts, wishes, disable_tqdm):
        seen.extend(wishes)
        return ["a. b</think> c. d" for _ in prompts]

    monkeypatch.setattr(model, "_generate", generate)
    asked = make_requests("generate_until", ("the", {"until": ["."], "max_gen_toks": 3}))
    assert model.generate_until(asked) == ["c"]
    assert seen[0].stop == ()
    model.think_end_token = None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"temperature": 0.7, "top_k": 0, "do_sample": True}, (0.7, None, 5)),
        ({"temperature": 0.7, "do_sample": False, "top_k": 4}, (0.0, 4, 5)),
        ({"temperature": 0.5, "seed": 9, "num_beams": 1}, (0.5, None, 9)),
        ({}, (0.0, None, 5)),
    ],
)
def test_wishes_are_lm_evals(model, monkeypatch, asked, expected):
    seen = []

    def generate(prompts, wishes, disable_tqdm):
        seen.extend(wishes)
        return [""]

    monkeypatch.setattr(model, "_generate", generate)
    monkeypatch.setattr(model, "seed", 5)
    model.generate_until(make_requests("generate_until", ("the", asked)))
    assert (seen[0].temperature, seen[0].top_k, seen[0].seed) == expected
    assert seen[0].max_new_tokens == model.max_gen_toks


def test_a_context_too_long_keeps_its_end(model):
    long = "the amber bell " * 400 + "rests"
    (text,) = model.generate_until(
        make_requests("generate_until", (long, {"until": [], "max_gen_toks": 4}))
    )
    assert isinstance(text, str)


def test_conversations_are_rendered(model):
    history = [{"role": "user", "content": "the bell"}]
    assert model.apply_chat_template(history) == "<|user|>the bell<|end|><|assistant|><think>"
    begun = [*history, {"role": "assistant", "content": "it"}]
    rendered = model.apply_chat_template(begun, add_generation_prompt=False)
    assert rendered == "<|user|>the bell<|end|><|assistant|>it"
    assert model.chat_template(True)
    assert "/" not in model.tokenizer_name


def test_an_unknown_setting_is_refused(tiny_folder):
    with pytest.raises(ValueError, match="windows is no setting of an engine; known: kv_memory"):
        EngineModel(pretrained=str(tiny_folder), windows=3)


def test_the_package_names_its_entry_point():
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, name = pyproject["project"]["entry-points"]["lm_eval.models"]["snello"].partition(
        ":"
    )
    assert getattr(import_module(module), name) is EngineModel
    module, _, name = pyproject["project"]["scripts"]["snello-lm-eval"].partition(":")
    assert callable(getattr(import_module(module), name))


@pytest.mark.slow
def test_the_command_line(tiny_folder, tasks_folder, tmp_path):
    code = "from snello.evaluation.lm_eval_model import main; main()"
    arguments = ["--model", "snello", "--model_args", f"pretrained={tiny_folder}"]
    arguments += ["--include_path", tasks_folder, "--tasks", "tiny_choice,tiny_reply,tiny_rolling"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--output_path", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "byte_perplexity" in ran.stdout
    assert list(tmp_path.rglob("results_*.json"))
