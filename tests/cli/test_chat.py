"""`snello chat` with its turns read from a file instead of a terminal."""

import io
import re

import pytest

from snello.cli.main import main

METER = re.compile(r"\[(\d+) tokens seen, (\d+) alive, factor ([\d.]+), [\d.]+ MiB, ended by")


def talk(monkeypatch, capsys, model, lines, *flags):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    code = main(["chat", str(model), "--max-new-tokens", "5", *flags])
    return code, capsys.readouterr()


def test_every_turn_is_answered_and_measured(tiny_adapter, monkeypatch, capsys):
    turns = ["heron holds 3.", "", "what is heron?"]
    code, printed = talk(monkeypatch, capsys, tiny_adapter, turns)
    assert code == 0
    meters = METER.findall(printed.out)
    assert len(meters) == 2
    assert int(meters[1][0]) > int(meters[0][0])
    assert float(meters[1][2]) > 1.0
    assert "> " not in printed.out


def test_reset_forgets_and_quit_ends(tiny_adapter, monkeypatch, capsys):
    turns = ["heron holds 3.", "/reset", "heron holds 3.", "/quit", "never read"]
    _, printed = talk(monkeypatch, capsys, tiny_adapter, turns)
    meters = METER.findall(printed.out)
    assert len(meters) == 2
    assert meters[0] == meters[1]


def test_an_unknown_command_lists_the_known(tiny_adapter, monkeypatch, capsys):
    _, printed = talk(monkeypatch, capsys, tiny_adapter, ["/help me"])
    assert "/help is no command; known: /reset, /quit" in printed.out


def test_a_turn_that_does_not_fit_is_told_and_the_chat_goes_on(tiny_adapter, monkeypatch, capsys):
    code, printed = talk(monkeypatch, capsys, tiny_adapter, ["heron " * 300, "heron"])
    assert code == 0
    assert "the model's context holds 256" in printed.out
    assert len(METER.findall(printed.out)) == 1


@pytest.mark.parametrize("memory", ["dense", "sparse"])
def test_a_system_text_comes_first(tiny_adapter, monkeypatch, capsys, memory):
    flags = ("--memory", memory)
    _, bare = talk(monkeypatch, capsys, tiny_adapter, ["heron"], *flags)
    _, told = talk(monkeypatch, capsys, tiny_adapter, ["heron"], "--system", "the", *flags)
    seen = [int(METER.findall(printed.out)[0][0]) for printed in (bare, told)]
    assert seen[1] > seen[0]


def test_a_stop_string_is_never_shown_and_the_chat_goes_on(tiny_adapter, monkeypatch, capsys):
    lines, flags = ["heron holds 3.", "what is heron?"], ["--ignore-eos", "--max-new-tokens", "9"]
    _, free = talk(monkeypatch, capsys, tiny_adapter, lines, *flags)
    reply = free.out.splitlines()[1]
    stop = reply[4:7]
    code, printed = talk(monkeypatch, capsys, tiny_adapter, lines, *flags, "--stop", stop)
    assert code == 0
    assert printed.out.splitlines()[1] == reply[: reply.index(stop)]
    assert "ended by stop" in printed.out.splitlines()[2]
    assert stop not in printed.out
    assert len(METER.findall(printed.out)) == 2


def test_a_turn_has_one_reply(tiny_adapter, monkeypatch, capsys):
    code, printed = talk(monkeypatch, capsys, tiny_adapter, ["heron"], "--n", "2")
    assert code == 2
    assert "ChatConfig.n is 2; a turn has one reply" in printed.err
