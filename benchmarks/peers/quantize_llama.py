"""From a GGUF file to rounded ones: `llama/bin/python quantize_llama.py IN.gguf FOLDER`."""

import ctypes
import sys
from pathlib import Path

import llama_cpp

FORMATS = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}


def main() -> None:
    """Write one file for each format."""
    source, folder = sys.argv[1:]
    for name, format_number in FORMATS.items():
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = format_number, 1
        out = Path(folder) / f"{name}.gguf"
        code = llama_cpp.llama_model_quantize(
            source.encode(), str(out).encode(), ctypes.byref(params)
        )
        if code != 0:
            raise SystemExit(f"{out}: llama_model_quantize returned {code}.")


if __name__ == "__main__":
    main()
