"""A line of evidence says how it was made, and not where."""

from benchmarks.record import describe_command


def test_a_command_is_written_down_without_the_machine_s_folders():
    words = ["--models", "/somewhere/deep/models", "--engine", "kv_dtype", "bfloat16"]
    shown = describe_command("prefill", words)
    assert shown == "python -m benchmarks.prefill --models .../models --engine kv_dtype bfloat16"
