"""What would no test notice? Changes one thing of a file at a time, and runs the tests it concerns.

    python -m tools.mutation app/core/rotation.py
    python -m tools.mutation app/core/rotation.py tests/rotation/test_rules.py -k "not postgresql"

No file is changed. The tests run once, to see which functions each of them calls. Then each mutant
gets a fork of this process, in which the function has its changed code, and the tests run until one
fails, first those that call it. Other processes that a test starts have no mutant. What
torture/survivors.md explains is counted and not tried, as to survive takes longest. Nonzero exit
where others survive.
"""

import builtins
import functools
import gc
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from types import CodeType, FunctionType
from typing import NoReturn

import pytest

from tools.mutants import Mutant, marked, mutants

FAILED = 1
NOBODY = b"\xff" * 4  # of the tests: it cannot even be imported
EXPLAINED = Path("torture/survivors.md")
TESTS = {  # those that fail most readily come first
    "app/core/rotation.py": ["rotation/test_rules.py", "rotation", "test_refresh.py"],
    "app/core/tokens.py": [
        "test_tokens.py",
        "test_devices.py",
        "security/test_data.py",
        "test_cookies.py::test_one_cookie_of_the_two_is_enough_to_log_out",
    ],
    "app/core/jws.py": ["test_tokens.py", "security/test_cryptography.py"],
    "app/core/keys.py": ["test_tokens.py", "test_config.py", "test_commands.py"],
    "app/api/cookies.py": [
        "test_cookies.py",
        "test_devices.py",
        "test_sessions.py",
        "test_profile.py::test_deleting_clears_all_cookies",
    ],
    "app/api/csrf.py": [
        "test_csrf.py",
        "test_logs.py::test_the_access_line_has_the_code_of_the_refusal",
    ],
    "app/api/cors.py": ["test_cors.py"],
    "app/services/throttle.py": [
        "test_throttling.py",
        "test_devices.py",
        "test_recovery.py",
        "test_audit.py",
        "test_documented_limits.py",
    ],
    "app/services/logins.py": [
        "test_refresh.py",
        "test_sessions.py",
        "test_audit.py",
        "test_logs.py",
        "security/test_context.py",
    ],
}


class Mutation:
    """A plugin of pytest, which has collected the tests."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = {os.path.abspath(path): path for path in paths}
        self.functions: list[FunctionType] = []
        self.caches: list[functools._lru_cache_wrapper[object]] = []
        self.calls: dict[pytest.Item, set[str]] = defaultdict(set)
        self.killer = mmap(-1, 4)  # which of them it was, as the fork tells
        self.explained = EXPLAINED.read_text(encoding="utf-8") if EXPLAINED.exists() else ""
        self.survivors: list[str] = []
        self.terminal = os.fdopen(os.dup(2), "w", buffering=1)  # past what pytest captures

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.unfreeze()  # app.main has hidden from it what is looked for here
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType) and thing.__code__.co_filename in self.paths:
                self.functions.append(thing)
            elif isinstance(thing, functools._lru_cache_wrapper):
                self.caches.append(thing)
        for file in self.paths:
            self.replace(file, marked(file, "called_by_test"))
        self.watch(session)
        gc.freeze()
        for file in self.paths:
            self.try_mutants(session, file)
            self.check(session, file)
        return True

    def watch(self, session: pytest.Session) -> None:
        for item, following in with_next(session.items):
            builtins.called_by_test = self.calls[item].add  # type: ignore[attr-defined]
            self.forget()  # or whoever built a statement first would be the only one who needs it
            run(item, following)
            if session.testsfailed:  # without a mutant: it says nothing about them
                session.testsfailed = 0
                del self.calls[item]

    def try_mutants(self, session: pytest.Session, file: str) -> None:
        path, explained, survivors = self.paths[file], 0, 0
        for number, mutant in enumerate(mutants(file), 1):
            text = f"{mutant.function or 'the module'}: {mutant.change}"
            if re.search(rf"(?<![\w.]){re.escape(text)}", self.explained):
                explained += 1
            elif self.survives(session, file, mutant):
                survivors += 1
                self.survivors.append(f"{path}:{mutant.line}: {text}")
                print(f"\r{self.survivors[-1]}", file=self.terminal)
            counts = f"{number} mutants, {explained} explained, {survivors} survive"
            print(f"\r{path}: {counts}", end="", file=self.terminal)
        print(file=self.terminal)

    def check(self, session: pytest.Session, file: str) -> None:
        """With nothing changed the tests still pass, so each mutant was killed by its change."""
        nothing = Mutant("", 0, "", compile("", file, "exec"))
        if not self.survives(session, file, nothing):
            raise session.Failed("Tests fail by themselves: this says nothing.")

    def survives(self, session: pytest.Session, file: str, mutant: Mutant) -> bool:
        self.killer[:] = NOBODY
        child = os.fork()
        if child == 0:
            self.try_out(session, file, mutant)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != FAILED:
            return True
        if self.killer[:] != NOBODY:  # what killed one kills the next
            killer = list(self.calls)[int.from_bytes(self.killer[:], "big")]
            self.calls = {killer: self.calls[killer]} | self.calls
        return False

    def try_out(self, session: pytest.Session, file: str, mutant: Mutant) -> NoReturn:
        try:
            session.config.pluginmanager.unregister(name="terminalreporter")
            self.forget()
            if mutant.function:
                self.replace(file, mutant.code, mutant.function)
            elif not executes(mutant.code, file):
                os._exit(FAILED)
            # First those that call it: a fixture that others share may have called it for them.
            items = sorted(self.calls, key=lambda item: mutant.function not in self.calls[item])
            for item, following in with_next(items):
                run(item, following)
                if session.testsfailed:
                    self.killer[:] = list(self.calls).index(item).to_bytes(4, "big")
                    os._exit(FAILED)
        finally:
            os._exit(0)

    def forget(self) -> None:
        """What the application keeps because it takes long to make."""
        for cache in self.caches:
            if str(cache.__module__).startswith("app."):
                cache.cache_clear()

    def replace(self, file: str, code: CodeType, name: str = "") -> None:
        """That function, or all, also for whoever has imported it."""
        codes = {one.co_qualname: one for one in within(code) if "<" not in one.co_qualname}
        for function in self.functions:
            current = function.__code__
            if current.co_filename == file and current.co_qualname in ({name} if name else codes):
                function.__code__ = codes[current.co_qualname]


def with_next(items: list[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item]]:
    """After the last comes the session itself: what all tests share stays, and no more."""
    return zip(items, [*items[1:], items[0].session], strict=True)


def run(item: pytest.Item, following: pytest.Item) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def within(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from within(constant)


def executes(code: CodeType, file: str) -> bool:
    """A statement of the module, again. Whoever has imported the former value has the new one."""
    modules = [vars(one) for one in list(sys.modules.values()) if hasattr(one, "__dict__")]
    (module,) = [one for one in modules if one.get("__file__") == file]
    before = dict(module)
    try:
        exec(code, module)
    except Exception:  # nobody could import it
        return False
    for name, value in before.items():
        for other in modules:
            if other.get(name) is value:
                other[name] = module[name]
    return True


def main(*arguments: str) -> int:
    paths = [one for one in arguments if one.startswith("app/")] or list(TESTS)
    options = [one for one in arguments if one not in paths]
    mutation = Mutation(paths)
    if not any(option.startswith("tests/") for option in options):
        options += dict.fromkeys(f"tests/{name}" for path in paths for name in TESTS[path])
    calm = ["-q", "-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=none", "--timeout=200"]
    failed = pytest.main([*calm, *options], plugins=[mutation])
    print(*mutation.survivors, sep="\n")
    return failed or len(mutation.survivors) > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
