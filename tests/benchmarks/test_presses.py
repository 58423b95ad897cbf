"""KVPress against ours: how it is asked, and what is made of both sides' replies."""

import sys

import pytest

from benchmarks import peer_process
from benchmarks.peer_process import PeerProcess
from benchmarks.presses import COLUMNS, choose_press, compare, describe


def test_a_window_holds_as_many_tokens_as_the_press_keeps():
    """Ours sees w tokens behind the newest; the press keeps as many, and the next one comes."""
    assert choose_press("dense") is None
    assert choose_press("window:tokens=64") == {
        "press": "streaming", "sinks": 0, "target": 64, "prompt": "stepwise", "raw": False,
    }  # fmt: skip
    press = choose_press("streaming:sinks=2,window=60")
    assert (press["sinks"], press["target"]) == (2, 62)
    assert choose_press("streaming:window=60")["target"] == 64
    assert choose_press("streaming:window=60", raw=True)["raw"]
    assert choose_press("tova:budget=48")["decodes"]
    press = choose_press("snapkv:budget=48,kernel=7")
    assert (press["target"], press["window"], press["kernel"]) == (48, 24, 7)
    assert not press["decodes"]


@pytest.mark.parametrize("policy", ["h2o:budget=64", "snapkv:budget=64,slide=16"])
def test_what_has_no_press_is_refused(policy):
    with pytest.raises(ValueError, match="KVPress has no press for"):
        choose_press(policy)


def test_a_difference_on_a_page_of_paper():
    ours, theirs = [[1], [2], [3], [4]], [[1], [2], [5], [6]]
    right = [[True, True, True, False], [True, True, False, True]]
    figures = compare("tova:budget=9", ours, theirs, right)
    assert (figures["ours"], figures["kvpress"], figures["difference"]) == (0.75, 0.75, 0.0)
    assert figures["same_reply_fraction"] == 0.5
    assert figures["is_within_noise"]
    assert describe(figures).count("|") == COLUMNS.count("|")
    worse = compare("tova:budget=9", ours, theirs, [[False] * 4, [True] * 4])
    assert worse["difference"] == -1.0
    assert not worse["is_within_noise"]


def test_a_peer_is_asked_line_by_line(tmp_path, monkeypatch):
    (tmp_path / "run_echo.py").write_text(
        "import json, sys\n"
        "print('a warning of some library')\n"
        "print(json.dumps({'peer': {'words': sys.argv[1:]}}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    if not line.strip():\n"
        "        break\n"
        "    print(json.dumps({'peer': json.loads(line)}), flush=True)\n"
    )
    monkeypatch.setattr(peer_process, "RUNNERS", tmp_path)
    with PeerProcess("echo", peer_process.Path(sys.executable), "echo", ["--cores", 2]) as peer:
        assert peer.description == {"words": ["--cores", "2"]}
        assert peer.ask(number=3) == {"number": 3}
        assert peer.ask(number=4) == {"number": 4}
    with pytest.raises(ValueError, match=r"nobody needs .*; run benchmarks/peers/install.sh"):
        PeerProcess("nobody", tmp_path / "bin" / "python", "nobody", [])


def test_a_peer_that_ends_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "run_short.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(peer_process, "RUNNERS", tmp_path)
    with pytest.raises(RuntimeError, match="short ended with code 3"):
        PeerProcess("short", peer_process.Path(sys.executable), "short", [])
