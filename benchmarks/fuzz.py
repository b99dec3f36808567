"""Feed spoilt files to the kit and see that each is read, or refused in one line: no traceback, no hang, no silent acceptance.

python benchmarks/fuzz.py [--count 2000] [--seed 0] [--kind tiff ...] [--only INDEX]

The mutants are those of `fuzz_kinds.py`; each follows from kind, seed and index alone, so that a failure can be made again with
``--kind KIND --seed SEED --only INDEX``. The kit runs in processes of their own, which a hang (10 s), a crash or more than
2 GB do not survive, and those count as failures. Exit code 1 if there is one.
"""

import argparse
import collections
import contextlib
import json
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HANG_SECONDS = 10.0
START_SECONDS = 600.0  # imports, and kernels that are compiled on a machine's first run
MEMORY = 2 << 30


class Child:
    """A process that judges mutants one after the other; made again after it was lost."""

    def __init__(self, folder, hang_seconds=HANG_SECONDS):
        self._folder = Path(folder)
        self._hang_seconds = hang_seconds
        self._process = None

    def ask(self, kind, seed, index):
        """The judgement of one mutant; a loss of the process is one, too."""
        said = {"kind": kind, "index": index, "form": "", "way": "", "follows": "", "outcome": "failed"}
        if self._process is None:
            self._start()
        started = self._exchange({"prepare": kind}, START_SECONDS)
        if started is None or started.get("wrong"):
            return said | {
                "wrong": f"the kind cannot be prepared: {started['wrong'] if started else self._lose('hangs')}"
            }
        begun = self._exchange({"kind": kind, "seed": seed, "index": index}, self._hang_seconds) or said
        answer = begun if "wrong" in begun else self._exchange(None, self._hang_seconds)
        if answer is None:
            reason = self._lose(f"hangs for more than {self._hang_seconds:.0f} s")
            return said | begun | {"wrong": reason}
        return answer

    def _start(self):
        environment = os.environ | {
            name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        self._errors = open(self._folder / "errors.txt", "w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", __file__, "--child", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self._rest = b""

    def _exchange(self, question, seconds):
        """The answer to a question, or the next one to the last; None if none comes in time, or the process ended."""
        try:
            if question is not None:
                self._process.stdin.write(json.dumps(question).encode() + b"\n")
                self._process.stdin.flush()
        except BrokenPipeError:
            return None
        ends = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, ends - time.monotonic()))
            data = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def _lose(self, reason):
        """End the process and say why: the reason given, or how it ended by itself."""
        process, self._process = self._process, None
        try:
            code = process.wait(0.5)
        except subprocess.TimeoutExpired:
            code = None
            process.kill()
            process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        self._errors.close()
        if code is None:
            return reason
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        return f"the process ended with {how}: {' | '.join(lines[-6:])}"

    def close(self):
        if self._process is not None:
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                # It has answered everything; a busy machine may take long to take a process apart.
                self._process.kill()
                self._process.wait()
            self._errors.close()


def serve(folder):
    """The child: judge what the parent asks for, line by line."""
    sys.path.insert(0, str(Path(__file__).parent))
    answers = os.fdopen(os.dup(1), "w")
    # Whatever the kit or a library prints must not be taken for an answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from fuzz_kinds import KINDS, Faults, judge, tell

    def say(answer):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    ready = {}
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {}
        try:
            if "prepare" in asked:
                if asked["prepare"] not in ready:
                    _limit_memory(None)
                    kind = ready[asked["prepare"]] = (KINDS | {"faults": Faults})[asked["prepare"]](
                        Path(folder) / asked["prepare"]
                    )
                    _read_good_forms(kind)
                    _limit_memory(MEMORY)
            else:
                answer = judge(ready[asked["kind"]], asked["seed"], asked["index"], say)
        except Exception as error:
            answer = asked | {"outcome": "failed", "form": "", "way": "", "wrong": tell(error)}
        say(answer)


def _read_good_forms(kind):
    """Once without a limit of time: kernels are compiled. What comes of it is judged later."""
    for form, data in kind.forms.items():
        with contextlib.suppress(Exception):
            kind.read(kind.write(form, data))


def _limit_memory(more):
    """Let this process take so much more than it has now; torch alone maps gigabytes that it never touches."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = resource.RLIM_INFINITY if more is None else pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (hard if more is None else limit, hard))


def fuzz(kinds, count, seed, n_children=2, only=None, keep=None, hang_seconds=HANG_SECONDS):
    """Judge ``count`` mutants in all, shared among the kinds; a list of judgements."""
    share = {kind: count // len(kinds) + (n < count % len(kinds)) for n, kind in enumerate(kinds)}
    waiting = queue.Queue()
    for kind in sorted(kinds, key=lambda kind: kind != "checkpoint"):
        waiting.put((kind, [only] if only is not None else range(share[kind])))
    judged, lock = [], threading.Lock()

    def work(folder):
        child = Child(folder, hang_seconds)
        while True:
            try:
                kind, indices = waiting.get_nowait()
            except queue.Empty:
                return child.close()
            started = time.monotonic()
            said = [child.ask(kind, seed, index) for index in indices]
            with lock:
                judged.extend(said)
                print(f"{kind}: {len(said)} mutants, {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(number) for number in range(n_children)]
        threads = [threading.Thread(target=work, args=(folder,)) for folder in folders]
        for folder, thread in zip(folders, threads, strict=True):
            folder.mkdir()
            thread.start()
        for thread in threads:
            thread.join()
        if keep is not None:
            shutil.copytree(scratch, keep, dirs_exist_ok=True)
    return judged


def report(judged, kinds, seed):
    """The table and the failures, as text."""
    lines = [f"{'kind':<12}{'mutants':>8}{'results':>9}{'refused':>9}{'failures':>10}"]
    for name in [*kinds, "all"]:
        own = [each for each in judged if name in (each["kind"], "all")]
        counts = collections.Counter(each["outcome"] for each in own)
        wrong = sum(bool(each.get("wrong")) for each in own)
        lines.append(f"{name:<12}{len(own):>8}{counts['result']:>9}{counts['refused']:>9}{wrong:>10}")
    for each in judged:
        if each.get("wrong"):
            where = f"--kind {each['kind']} --seed {seed} --only {each['index']}"
            lines.append(f"{where}: {each['form']}, {each['way']}: {each['wrong']}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="mutants in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", nargs="+", default=None)
    parser.add_argument("--only", type=int, default=None, help="one mutant of each kind, by its index")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the files of the last mutants")
    parser.add_argument("--hang-seconds", type=float, default=HANG_SECONDS, help="what one mutant may take")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return serve(given.child)
    sys.path.insert(0, str(Path(__file__).parent))
    from fuzz_kinds import KINDS

    kinds = given.kind or list(KINDS)
    if unknown := set(kinds) - {*KINDS, "faults"}:
        parser.error(f"--kind must be among {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
    started = time.monotonic()
    judged = fuzz(kinds, given.count, given.seed, only=given.only, keep=given.keep, hang_seconds=given.hang_seconds)
    print(report(judged, kinds, given.seed))
    print(f"{time.monotonic() - started:.0f} s")
    return int(any(each.get("wrong") for each in judged))


if __name__ == "__main__":
    sys.exit(main())
