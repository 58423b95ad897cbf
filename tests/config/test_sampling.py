"""What may be asked of the sampler, and the one line that refuses anything else."""

import numpy as np
import pytest

from snello.config.sampling import SamplingConfig, SamplingParams


def test_one_class_has_two_names():
    assert SamplingParams is SamplingConfig


def test_one_stop_string_may_stand_alone_and_lists_become_tuples():
    assert SamplingConfig(stop="ab").stop == ("ab",)
    assert SamplingConfig(stop=["a", "b"], stop_token_ids=[3]).stop_token_ids == (3,)
    assert hash(SamplingConfig(stop=["a"], logit_bias={3: 1.0})) == hash(SamplingConfig(stop="a"))


def test_numbers_of_numpy_are_numbers():
    wish = SamplingConfig(
        stop_token_ids=[int(np.int64(4))], logit_bias={4: -1}, temperature=float(np.float32(0.5))
    )
    assert wish.stop_token_ids == (4,)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0 or more. 0 always takes"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": 0}, "top_k is 0; it must be at least 1. Leave it out"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0"),
        ({"min_p": 1.5}, "min_p is 1.5; it must be between 0 and 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be above 0"),
        ({"presence_penalty": 2.1}, "presence_penalty is 2.1; it must be between -2 and 2"),
        ({"frequency_penalty": -3.0}, "frequency_penalty is -3.0; it must be between -2 and 2"),
        ({"logit_bias": {3: 101.0}}, r"logit_bias is \{3: 101.0\}; it must be token ids"),
        ({"logit_bias": {-1: 1.0}}, "Write {13: -100} to rule out"),
        ({"seed": -1}, "seed is -1; it must be between 0"),
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1; it must be 0 or more"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9 and max_new_tokens is 8"),
        ({"stop_token_ids": [-4]}, r"stop_token_ids is \(-4,\); it must be token ids"),
        ({"stop": ["a", ""]}, r"stop is \('a', ''\); it must be texts that are not empty"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs is 21; it must be between 0 and 20"),
        ({"top_logprobs": 3}, "top_logprobs is 3 while logprobs is off; turn logprobs on"),
    ],
)
def test_bad_settings_are_refused_in_one_line(setting, message):
    with pytest.raises(ValueError, match=message) as caught:
        SamplingConfig(**setting)
    assert "\n" not in str(caught.value)
