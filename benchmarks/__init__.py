"""One question per file: `python -m benchmarks.<question>`; see README.md."""
