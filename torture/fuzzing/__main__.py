"""`python -m torture.fuzzing TARGET FOLDER SECONDS`: atheris on one target (targets.py).

It never returns. Its corpus and, if there is one, the input that broke the promise are in the
folder.
"""

import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["app"]):
    from torture.fuzzing.targets import TARGETS, seeds

LONGEST_INPUT = 4096  # bytes: longer than any token
SLOWEST = 10  # seconds for one input, under a fuzzer that traces every branch


def main(name: str, folder: Path, seconds: str) -> None:
    logging.disable(logging.CRITICAL)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = (
        f"-max_total_time={seconds}",
        f"-timeout={SLOWEST}",
        f"-max_len={LONGEST_INPUT}",
        "-len_control=0",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    )

    def watched(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except BaseException:
            (folder / "broken-by").write_bytes(data)
            raise

    atheris.Setup([sys.argv[0], *options, str(corpus)], watched)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
