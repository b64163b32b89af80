"""The proof of the evidence rule by experiment. `python -m tests.rotation` prints its figures."""
