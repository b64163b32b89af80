"""Build argon2 for this processor, where that hashes faster: `make native-argon2`.

    python -m tools.native_argon2           build, prove, measure, and only then replace
    python -m tools.native_argon2 --undo    take the published wheel again

The wheel of argon2-cffi-bindings has to run on every processor, so on x86-64 it is compiled for
SSE2, of 2001. argon2 has faster code for AVX2 and AVX-512, but that is chosen when it is compiled,
not when it runs. What is built here is the locked version, its source and the tools checked by
their hashes, in a folder of its own. What is installed stays until the new one has proved itself.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import distribution
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
NAME = "argon2-cffi-bindings"
STAMP = Path(sys.prefix, ".native-argon2")  # the version built here; tools/install.sh reads it
ROUNDS = 5
HASHES = 10  # a round
PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
WORTHWHILE = 1.1  # times as fast; less may be chance, and is not worth leaving the wheel


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.native_argon2")
    parser.add_argument("--undo", action="store_true", help="take the published wheel again")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.probe:
        print(json.dumps(probe()))
    elif given.undo:
        take_the_wheel()
    else:
        replace_by_a_faster_one()


def replace_by_a_faster_one() -> None:
    refuse_where_nothing_can_be_built()
    print(f"Building {NAME} for this processor ...", flush=True)
    # On the same disk as the packages, because they are renamed into place.
    with TemporaryDirectory(prefix="native-argon2-", dir=sys.prefix) as folder:
        built = build(Path(folder))
        before, after = compare(built)
        if before < after * WORTHWHILE:
            print(
                f"A hash takes {before:.1f} ms, and {after:.1f} ms built for this processor, "
                "which is no faster: nothing was changed."
            )
            return
        put_in_place(built)
    print(
        f"A hash took {before:.1f} ms, and takes {after:.1f} ms now: {before / after:.1f} times as "
        "many a second. Restart the service if it runs."
    )


def refuse_where_nothing_can_be_built() -> None:
    compilers = os.environ.get("CC", "").split()[:1] or ["cc", "gcc", "clang"]
    if not any(map(shutil.which, compilers)):
        sys.exit(
            "A C compiler is missing (Debian, Ubuntu: apt install gcc libc6-dev; macOS: "
            "xcode-select --install): nothing was changed."
        )
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        package = "python{}.{}-dev".format(*sys.version_info)
        sys.exit(
            f"Python's headers are missing (Debian, Ubuntu: apt install {package}): nothing was "
            "changed."
        )


def build(folder: Path) -> Path:
    """The folder of packages with the new one in it. Without a cache: one would hand out what was
    built for another processor, and this build to other projects."""
    tools, built = folder / "tools", folder / "built"
    install("--target", str(tools), "-r", str(ROOT / "requirements-native.txt"))
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    flags = "-march=native" if x86 else "-mcpu=native"
    install(
        *("--target", str(built), "--no-deps", "--no-binary", NAME, "--no-build-isolation"),
        *("-r", str(pin(folder))),
        PYTHONPATH=str(tools),
        PATH=f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}",
        CFLAGS=f"{flags} {os.environ.get('CFLAGS', '')}",  # of two -march, the last one counts
    )
    return built


def pin(folder: Path) -> Path:
    """A file with the part of requirements.txt that is about this package."""
    version = distribution(NAME).version
    pattern = rf"^{NAME}=={re.escape(version)} .*\\\n( +--hash=.+\n)+"
    found = re.search(pattern, (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    if not found:
        sys.exit(f"{NAME} {version} is installed, and not what requirements.txt says: make run.")
    path = folder / "pin.txt"
    path.write_text(found[0])
    return path


def install(*arguments: str, **settings: str) -> None:
    """With uv if it is there, otherwise with pip, as tools/install.sh does."""
    uv = shutil.which("uv")
    tool = [uv, "pip", "install", "--python", sys.executable] if uv else PIP
    options = ["--quiet", "--no-cache-dir", "--require-hashes"]
    done = run([*tool, *options, *arguments], **settings)
    if done.returncode:
        print(*(done.stdout + done.stderr).splitlines()[-25:], sep="\n", file=sys.stderr)
        sys.exit(f"{NAME} could not be installed so (see above): nothing was changed.")


def run(command: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True
    )


def compare(built: Path) -> tuple[float, float]:
    """Milliseconds of a hash now and with the new one, which has to give the same hashes.

    In turn, and in a process each: what else this machine does meets both alike.
    """
    probes = [(probed(), probed(PYTHONPATH=str(built))) for _ in range(ROUNDS)]
    if any(new["hashes"] != old["hashes"] for old, new in probes):
        sys.exit("Built for this processor, it hashes wrongly: nothing was changed.")
    old, new = zip(*probes, strict=True)
    return median(one["milliseconds"] for one in old), median(one["milliseconds"] for one in new)


def probed(**settings: str) -> dict[str, Any]:
    done = run([sys.executable, "-m", "tools.native_argon2", "--probe"], **settings)
    if done.returncode:  # below zero: by a signal, such as SIGILL
        print(done.stderr, file=sys.stderr)
        sys.exit(f"Hashing fails here ({done.returncode}, see above): nothing was changed.")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def probe() -> dict[str, Any]:
    """What argon2 hashes in this process, with a salt that is always the same, and how fast."""
    from argon2.low_level import Type, hash_secret

    from app.core.hashing import context

    password, salt = b"nine tall herons at dawn", b"sixteen bytes of"
    hashes = [
        hash_secret(password, salt, rounds, kib, lanes, 32, kind).decode()
        for kind in Type
        for rounds, kib, lanes in ((1, 8, 1), (3, 1000, 4), (2, 19 * 1024, 1))
    ]
    times = []
    for _ in range(HASHES):
        start = time.thread_time()  # of a core: the time of other processes is not counted
        context().hash(password)
        times.append(time.thread_time() - start)
    return {"hashes": hashes, "milliseconds": median(times) * 1000}


def put_in_place(built: Path) -> None:
    """Renamed over the old files, never written into them: a running service has them open, and
    where uv installed, its cache shares them."""
    packages = Path(str(distribution(NAME).locate_file("")))
    for new in sorted(path for path in built.rglob("*") if path.is_file()):
        os.replace(new, packages / new.relative_to(built))
    STAMP.write_text(distribution(NAME).version)


def take_the_wheel() -> None:
    with TemporaryDirectory() as folder:
        install("--force-reinstall", "--no-deps", "-r", str(pin(Path(folder))))
    STAMP.unlink(missing_ok=True)
    print(f"{NAME} is the published wheel. Restart the service if it runs.")


if __name__ == "__main__":
    main()
