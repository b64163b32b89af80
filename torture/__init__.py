"""Does it keep its promises? Experiments with real parts, under load, faults and failure.

`make torture`, or `python -m torture tabs kill --scale 0.1`. docs/torture.md says what each does
and what it found.
"""
