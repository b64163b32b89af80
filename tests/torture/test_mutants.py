"""Mutation testing: what is changed in a file."""

from pathlib import Path

from tools.mutants import mutants

SOURCE = '''
LIMIT = 3

def allowed(age: int, name: str = "nobody") -> bool:
    """Whether somebody may."""
    if not name:
        raise ValueError
    return age < LIMIT and ok(age)
'''


def test_each_mutant_has_one_thing_changed(tmp_path: Path) -> None:
    """Neither docstrings nor annotations nor default values."""
    path = tmp_path / "sample.py"
    path.write_text(SOURCE)
    last = "`return age < LIMIT and ok(age)`"
    assert [(mutant.function, mutant.change) for mutant in mutants(str(path))] == [
        ("", "`3` → `4`"),
        ("allowed", "`not name` → `name`"),
        ("allowed", "`raise ValueError` → `pass`"),
        ("allowed", f"{last} → `return None`"),
        ("allowed", f"{last} → `return age < LIMIT or ok(age)`"),
        ("allowed", f"{last} → `return ok(age)`"),
        ("allowed", f"{last} → `return age < LIMIT`"),
        ("allowed", f"{last} → `return age <= LIMIT and ok(age)`"),
        ("allowed", f"{last} → `return age >= LIMIT and ok(age)`"),
    ]
