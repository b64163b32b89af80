"""A coverage-guided fuzzer, and what it is pointed at."""
