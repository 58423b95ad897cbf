"""What a reply's final answer is, and when two mathematical answers are the same.

Knows nothing of tasks. Comparing is math-verify's work; this file decides what it is shown.
"""

import logging
import re
import threading
import time
import warnings
from fractions import Fraction

SECONDS_TO_COMPARE = 5
_WORDS_AROUND = re.compile(r"\\left\b|\\right\b|\\displaystyle|\\[,;!: $]|~|\$|\{,\}")
_NUMBER = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?|-?\.\d+")
_FRACTION = re.compile(r"(-?)\\frac\{(-?\d+)\}\{(\d+)\}|(-?\d+)/(\d+)")


def drop_thought(reply: str) -> str:
    """Return what a reply says after its thought; nothing if a thought begins and never ends.

    A reply without marks of a thought is returned whole.
    """
    _, mark, said = reply.rpartition("</think>")
    if not mark and "<think>" in reply:
        return ""
    return said.strip()


def find_boxed(text: str) -> str | None:
    r"""Return what stands in the last `\boxed{...}`, braces matched; None if none is complete."""
    for start in reversed([match.end() for match in re.finditer(r"\\f?boxed\s*\{", text)]):
        depth = 1
        for end in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            if depth == 0:
                return text[start:end].strip()
    return None


def find_last_number(text: str) -> str | None:
    """Return the last number in a text, without commas between its digits."""
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else None


def normalize(answer: str) -> str:
    r"""Return an answer in the form that equal ones mostly share, for votes and quick comparison.

    Spaces and marks of layout go, `\dfrac` becomes `\frac`; numbers are written as the fraction or
    the whole number that they are. What stays different may still be equal: see `are_equal`.
    """
    text = _WORDS_AROUND.sub("", answer).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = re.sub(r"\\(?:text|mathrm|textbf|mbox)\{\s*([^{}]*?)\s*\}", r"\1", text)
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\s+", "", text).rstrip(".")
    number = _read_number(text)
    return text if number is None else str(number)


def are_equal(reference: str, answer: str, *, seconds: int = SECONDS_TO_COMPARE) -> bool:
    """Tell whether an answer is the reference: written alike, or equal to math-verify.

    A comparison that takes longer than `seconds` is given up with a warning, and is not equal.

    Raises:
        ValueError: math-verify is not installed.
    """
    if normalize(reference) == normalize(answer):
        return True
    return verify_equal(reference, answer, seconds=seconds)


def verify_equal(reference: str, answer: str, *, seconds: int = SECONDS_TO_COMPARE) -> bool:
    """Tell whether two answers are equal to math-verify alone, which decides on `are_equal`.

    Raises:
        ValueError: math-verify is not installed.
    """
    try:
        from math_verify import parse, verify
    except ModuleNotFoundError:
        raise ValueError(
            "comparing mathematical answers needs the package math-verify; "
            "pip install 'snello[lab]'."
        ) from None
    # Its clock is an alarm signal, which only the main thread may set.
    on_main_thread = threading.current_thread() is threading.main_thread()
    limit = seconds if on_main_thread else None
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    started = time.perf_counter()
    sides = [parse(rf"\boxed{{{side}}}", parsing_timeout=limit) for side in (reference, answer)]
    if verify(*sides, timeout_seconds=limit):
        return True
    if on_main_thread and time.perf_counter() - started >= seconds:
        warnings.warn(
            f"math-verify gave up after {seconds} s comparing {reference[:60]!r} with "
            f"{answer[:60]!r}; they count as different.",
            stacklevel=2,
        )
    return False


def _read_number(text: str) -> Fraction | None:
    """Read a whole number, a decimal, or a fraction of whole numbers."""
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        sign, over, under, plain_over, plain_under = fraction.groups()
        denominator = int(under or plain_under)
        if denominator == 0:
            return None
        value = Fraction(int(over or plain_over), denominator)
        return -value if sign else value
    if len(text) < 60 and _NUMBER.fullmatch(text):
        return Fraction(text.replace(",", ""))
    return None
