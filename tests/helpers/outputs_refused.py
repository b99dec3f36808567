"""Run every command with outputs that cannot be written, in this one process, and print what each says as JSON."""

import contextlib
import io
import json
import sys
import time
from pathlib import Path

from vesuvius_kit.cli import main


def commands(work, bad_folders, bad_files):
    """Each command with each output that it takes, twice: a folder, or a file, that cannot be."""
    data, run, checkout = work / "data", work / "run", Path(__file__).parents[2]
    quick = ["--train.num_epochs", "1", "--train.steps_per_epoch", "1", "--n_folds", "2", "--train.num_workers", "0"]
    quick += ["--lr.warmup_epochs", "0", "--patches.size", "[16,16,16]"]
    for bad in bad_folders:
        yield ["demo", "--tiny", "--output", bad]
        yield ["phantom", "--train", "0", "--test", "1", "--output", bad]
        yield ["phantom", "--train", "0", "--test", "1", "--output", work / "free" / "phantom", "--truth", bad]
        yield ["train", "--data", data, *quick, "--output", bad]
        yield ["predict", "--images", data / "test_images", "--checkpoints", run, "--output", bad]
        yield ["postprocess", "--probabilities", work / "probabilities", "--output", bad]
        yield ["bundle", "--checkout", checkout, "--output", bad]
        yield ["rehearse", "--checkout", checkout, "--notebooks", checkout / "notebooks", "--output", bad]
        yield ["push", "--dry-run", "--checkout", checkout, "--folder", bad]
    for bad in bad_files:
        yield ["submit", "--data", data, "--checkpoints", run, "--output", bad]
        yield ["audit", "--data", data, "--json", bad]
        masks = ["postprocess", "--probabilities", work / "probabilities", "--output", work / "free" / "masks"]
        yield [*masks, "--report", bad]
        for option in ("--csv", "--json"):
            yield ["score", "--predictions", data / "train_labels", "--labels", data / "train_labels", option, bad]
        for option in ("--figure", "--json", "--yaml"):
            yield ["diagnose", work / "log.jsonl", option, bad]


def say(command):
    """What a command says, and how long it takes to."""
    started, output, log = time.monotonic(), io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(log):
            code = main([str(word) for word in command])
    except BaseException as error:
        code = repr(error)
    seconds = time.monotonic() - started
    bad = str(command[-1])
    return {
        "command": f"{command[0]} {command[-2]} {bad}",
        "bad": bad,
        "code": code,
        "log": log.getvalue(),
        "seconds": seconds,
    }


if __name__ == "__main__":
    work = Path(sys.argv[1])
    read_only, file, folder = work / "read_only", work / "file", work / "folder"
    cases = commands(work, [read_only / "x", file, file / "x"], [read_only / "x", folder, file / "x"])
    print(json.dumps([say(command) for command in cases]))
