"""From a Hugging Face folder to GGUF, by llama.cpp's own converter.

    convert/bin/python convert_llama.py LLAMA_CPP_SOURCE MODEL_FOLDER OUT.gguf

The converter knows tokenizers by a hash of what they make of one text, and nobody knows ours; it
cuts words as Qwen's does, so that is the name it is given.
"""

import sys
from pathlib import Path


def main() -> None:
    """Convert to bfloat16, as the folder is."""
    source, model, out = sys.argv[1:]
    sys.path.insert(0, str(Path(source)))
    import convert_hf_to_gguf  # type: ignore[import-not-found]
    from conversion.base import TextModel  # type: ignore[import-not-found]

    TextModel.get_vocab_base_pre = lambda *_: "qwen2"
    sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", out, "--outtype", "bf16"]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main()
