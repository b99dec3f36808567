"""What a GPU makes of the kit: inference beside its peers, training steps, layouts, two processes, a submission.

    python benchmarks/gpu.py --output gpu.json --table gpu.md
    python benchmarks/gpu.py --only "inference unet3d" "training unet3d"
    GPU_STAND_IN=cpu python benchmarks/gpu.py

`make gpu` calls this after the tests marked ``gpu``. Every section is a process of its own with a limit of time, so that none
can take the others with it, and its rows are kept as they come. A section that fails or overruns its limit is named with its
error in the table, and the exit code is then 1. What there is no time for is named too.

``GPU_STAND_IN=cpu`` tries all of it on the CPU, in sizes that say nothing of speed.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import peers
import torch
from peers import Task

import vesuvius_kit as vk
from vesuvius_kit.training.from_config import make_loss

# The whole of `make gpu` is to take less than eight minutes; the tests and the installation come first.
SECONDS = 400.0
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
DTYPES = {"fp32": torch.float32, **HALF}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    device: str
    volume: int
    window: int
    batches: tuple[int, ...]
    patch: int
    patches: int
    steps: int
    share: dict
    options: dict
    patience: float = 1.0
    """Limits of time are multiplied by it."""


GPU = Sizes(
    device="cuda",
    volume=320,
    window=128,
    batches=(1, 4),
    patch=128,
    patches=2,
    steps=5,
    share={"n_volumes": 4, "edge": 320, "filters": 32, "depth": 4, "window": 128, "batch_size": 4},
    options={},
)
STAND_IN = Sizes(
    device="cpu",
    volume=24,
    window=16,
    batches=(1, 2),
    patch=32,
    patches=2,
    steps=1,
    share={"n_volumes": 2, "edge": 64, "filters": 2, "depth": 1, "window": 32, "batch_size": 2},
    options={
        "unet3d": {"initial_filters": 2, "depth": 2},
        "resenc_unet": {"channels": (2, 4, 4), "blocks": (1, 1, 1)},
        "timm_unet": {"encoder": "resnet10t", "decoder_channels": (8, 8, 8, 4, 4)},
        "nnunet": {"channels": (2, 4, 4), "blocks": (1, 1, 1)},
    },
    patience=8.0,
)
SIZES = STAND_IN if os.environ.get("GPU_STAND_IN") == "cpu" else GPU


def make_network(name):
    """Return a network with fresh weights on the device."""
    torch.manual_seed(0)
    return vk.create_model(name, **SIZES.options.get(name, {})).to(SIZES.device)


def dtypes_of_device():
    """Return the types that the device has units for."""
    if SIZES.device == "cpu" or torch.cuda.get_device_capability() >= (8, 0):
        return DTYPES
    return {name: dtype for name, dtype in DTYPES.items() if name != "bf16"}


def best_half():
    """Return the half type that the kit would choose."""
    return "bf16" if "bf16" in dtypes_of_device() else "fp16"


class Clock:
    """What is left of a section's time."""

    def __init__(self, seconds):
        self._end = time.monotonic() + seconds

    @property
    def left(self):
        """Seconds."""
        return self._end - time.monotonic()


def emit(**row):
    """Hand a row to the process that keeps them."""
    print(json.dumps({"row": row}), flush=True)


def synchronize():
    """Wait for the device."""
    if SIZES.device == "cuda":
        torch.cuda.synchronize()


def measure(function, *arguments):
    """Return seconds and peak memory, GiB over what was held before on a GPU, of a call."""
    synchronize()
    held = 0
    if SIZES.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    started = time.perf_counter()
    function(*arguments)
    synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() - held if SIZES.device == "cuda" else None
    return seconds, None if peak is None else peak / 2**30


def run_inference(name, clock):
    """Time whole volumes by each contestant over the bare forward passes, in every type and batch."""
    network = peers.Plain(make_network(name)).eval()
    volume = np.random.default_rng(0).integers(1, 255, (SIZES.volume,) * 3, dtype=np.uint8)
    with torch.device("meta"):
        counted = vk.create_model(name, **SIZES.options.get(name, {}))
    there, absent = peers.find_contestants()
    for peer, reason in absent.items():
        emit(case=peer, note=f"not there: {reason}")
    # What is chosen for a submission first, what matters least last.
    kinds = sorted(dtypes_of_device(), key=lambda kind: (kind != best_half(), kind == "fp32"))
    for precision in kinds:
        for batch in SIZES.batches:
            task = Task(SIZES.window, 0.5, batch, SIZES.device, DTYPES[precision])
            names = [peer for peer in there if peers.can_run(peer, task)]
            peers.warm_up([], network, task)
            windows = len(peers.corners_of(volume.shape, task))
            forward = peers.time_forward(network, volume, task)
            # The warm-up of each is an eighth of a volume.
            if 1.5 * forward * (2 + len(names)) > clock.left:
                emit(case="all", precision=precision, batch=batch, note=f"left out: {forward:.0f} s a volume")
                continue
            flop = peers.count_flops(counted, task) * windows
            emit(
                case="bare forward passes", network=name, precision=precision, batch=batch, seconds=forward,
                flop_per_second=flop / forward, note=f"{flop / forward / 1e12:.1f} TFLOP/s",
            )  # fmt: skip
            for peer in names:
                peers.warm_up([peer], network, task)
                rounds = [measure(peers.CONTESTANTS[peer], network, volume, task) for _ in range(2)]
                forward = min(forward, peers.time_forward(network, volume, task))
                seconds, memory = min(rounds, key=lambda round_: round_[0])
                emit(
                    case=peer, network=name, precision=precision, batch=batch, seconds=seconds, memory_gib=memory,
                    over_forward=seconds / forward - 1, flop_per_second=flop / forward,
                )  # fmt: skip


def run_layouts(name, clock):
    """Time the forward pass of a batch of windows in other memory layouts, then compiled."""
    network = make_network(name).eval()
    shape = (SIZES.batches[-1], 1, *(SIZES.window,) * 3)
    image = torch.randn(shape, device=SIZES.device)
    precision = best_half()
    task = Task(SIZES.window, device=SIZES.device, dtype=DTYPES[precision])

    def time_it(case, module, batch):
        with torch.inference_mode(), peers.autocast(task):
            first, _ = measure(module, batch)
            rounds = [measure(module, batch) for _ in range(SIZES.steps)]
        seconds = statistics.median(seconds for seconds, _ in rounds)
        note = f"first {first:.1f} s"
        emit(
            case=case, network=name, precision=precision, batch=shape[0], seconds=seconds, memory_gib=rounds[0][1], note=note
        )  # fmt: skip

    time_it("plain layout", network.compute_logits, image)
    network.to(memory_format=torch.channels_last_3d)
    last = image.to(memory_format=torch.channels_last_3d)
    time_it("channels last", network.compute_logits, last)
    if clock.left > 45 or SIZES.device == "cpu":
        time_it("channels last, compiled", torch.compile(network.compute_logits, dynamic=False), last)
    else:
        emit(case="channels last, compiled", note="left out: no time")


def make_step(name, precision, compiled=False):
    """Return a function that makes a training step, as `vesuvius_kit.training` makes it, of a network in a type."""
    config = vk.load_config("config_v6_fix_plateau")
    network = make_network(name).train()
    forward = torch.compile(network, dynamic=False) if compiled else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.train.learning_rate)
    scaler = torch.amp.GradScaler(SIZES.device, enabled=precision == "fp16")
    loss = make_loss(config, 0)
    image = torch.randn((SIZES.patches, 1, *(SIZES.patch,) * 3), device=SIZES.device)
    label = (image[:, 0] > 1).to(torch.uint8)
    label[:, :3] = vk.UNLABELLED
    task = Task(device=SIZES.device, dtype=DTYPES[precision])

    def step():
        optimizer.zero_grad(set_to_none=True)
        with peers.autocast(task):
            logits = forward(image)
        total, _ = loss(logits.float(), label)
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.gradient_clip)
        scaler.step(optimizer)
        scaler.update()
        return total

    return step


def time_steps(name, precision, compiled=False):
    """Emit the median time of some steps and the peak memory of all that a step holds."""
    case = "training step, compiled" if compiled else "training step"
    row = {"case": case, "network": name, "precision": precision, "batch": SIZES.patches}
    try:
        if SIZES.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        step = make_step(name, precision, compiled)
        first, _ = measure(step)
        step()
        rounds = [measure(step)[0] for _ in range(SIZES.steps)]
        loss = float(step())
    except torch.cuda.OutOfMemoryError:
        emit(**row, note=f"{SIZES.patches} patches of {SIZES.patch}^3 do not fit the memory")
        return
    if not np.isfinite(loss):
        raise ValueError(f"the loss of {name} in {precision} must stay finite, got {loss}")
    memory = torch.cuda.max_memory_reserved() / 2**30 if SIZES.device == "cuda" else None
    emit(**row, seconds=statistics.median(rounds), memory_gib=memory, note=f"first {first:.1f} s")


def run_training(name, _clock):
    """Time a training step of a network in every type; fp16 with the scaler."""
    for precision in dtypes_of_device():
        time_steps(name, precision)


def run_compiled_training(name, _clock):
    """Time a compiled training step."""
    time_steps(name, best_half(), compiled=True)


def predict_beside(gate, answers, n_volumes):
    """Predict volumes once all processes are ready, and hand on the seconds that took."""
    model = make_network("unet3d")
    volume = np.random.default_rng(0).integers(1, 255, (SIZES.volume,) * 3, dtype=np.uint8)
    settings = {"window": SIZES.window, "batch_size": SIZES.batches[-1], "device": SIZES.device}
    vk.predict_volume(model, volume, **settings)
    synchronize()
    gate.wait()
    started = time.perf_counter()
    for _ in range(n_volumes):
        probability = vk.predict_volume(model, volume, **settings)
    synchronize()
    memory = torch.cuda.max_memory_reserved() / 2**30 if SIZES.device == "cuda" else None
    answers.put((time.perf_counter() - started, memory, float(probability.mean())))


def run_two_processes(_name, _clock):
    """Time the kit on one GPU by one process, then by two at once."""
    context = multiprocessing.get_context("spawn")
    n_volumes, alone = 4, None
    for n_processes in (1, 2):
        gate, answers = context.Barrier(n_processes), context.Queue()
        workers = [
            context.Process(target=predict_beside, args=(gate, answers, n_volumes), daemon=True)
            for _ in range(n_processes)
        ]
        for worker in workers:
            worker.start()
        rows = [answers.get(timeout=60 * SIZES.patience) for _ in workers]
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise RuntimeError(f"process ended with exit code {[worker.exitcode for worker in workers]}")
        each = max(seconds for seconds, _, _ in rows) / (n_volumes * n_processes)
        alone = alone or each
        memory = None if rows[0][1] is None else sum(row[1] for row in rows)
        emit(
            case=f"{n_processes} process{'es' if n_processes > 1 else ''}", network="unet3d", precision=best_half(),
            batch=SIZES.batches[-1], seconds=each, memory_gib=memory,
            note=f"a volume; {alone / each:.2f} times the volumes of one process",
        )  # fmt: skip


def run_submission(_name, _clock):
    """Time four volumes from TIFF to the archive, repair included, and what of it lies outside the network."""
    from inference import measure_share

    with tempfile.TemporaryDirectory() as folder:
        row = measure_share(folder, device=SIZES.device, **SIZES.share)
    emit(
        case="submission", network="unet3d", precision="auto", batch=SIZES.share["batch_size"],
        seconds=row["wall_seconds"] / row["volumes"], outside_share=row["outside_share"],
        note=f"a volume; {100 * row['outside_share']:.0f} % outside the network, {row['volumes']} volumes",
    )  # fmt: skip


def list_sections():
    """Return the sections in the order of what they tell: name, function, network, limit in seconds."""
    rows = [
        ("inference unet3d", run_inference, "unet3d", 80),
        ("inference resenc_unet", run_inference, "resenc_unet", 80),
    ]
    rows += [(f"training {name}", run_training, name, 45) for name in vk.list_models()]
    rows += [("two processes", run_two_processes, "", 60), ("layouts unet3d", run_layouts, "unet3d", 90)]
    rows += [("submission", run_submission, "", 120), ("layouts resenc_unet", run_layouts, "resenc_unet", 90)]
    rows += [(f"compiled training {name}", run_compiled_training, name, 90) for name in vk.list_models()]
    return {name: (function, network, limit) for name, function, network, limit in rows}


def run_section(name, limit):
    """Run one section in a process of its own; return its rows, seconds and error."""
    command = [sys.executable, __file__, "--section", name, "--limit", str(limit)]
    started, error = time.monotonic(), None
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, text=True, start_new_session=True)
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            # Its workers, and those that compile, belong to its session.
            os.killpg(process.pid, 9)
            process.wait()
            code, error = None, f"not done within its {limit:.0f} s"
        output.seek(0)
        errors.seek(0)
        lines = [line for line in output.read().splitlines() if line.startswith('{"row"')]
        if code:
            said = [line for line in errors.read().splitlines() if line.strip() and not line.startswith(" ")]
            error = said[-1] if said else f"exit code {code}"
    rows = [json.loads(line)["row"] for line in lines]
    return {"seconds": round(time.monotonic() - started, 1), "error": error, "rows": rows}


def describe_machine():
    """Return what the figures depend on."""
    names = ("torch", "numpy", "scipy", "numba", "triton", "monai", "nnunetv2", "timm", "accelerate")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    machine = {"python": platform.python_version(), "cores": len(os.sched_getaffinity(0)), "versions": versions}
    if SIZES.device == "cpu":
        return {**machine, "gpu": "none: tried on the CPU"}
    properties = torch.cuda.get_device_properties(0)
    return {
        **machine,
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def to_table(record):
    """Return a record as Markdown: the machine in a line, one table, and what failed."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    about = f"{machine['gpu']}, {machine['memory_gib']} GiB" if "memory_gib" in machine else machine["gpu"]
    about += f"; {machine['cores']} cores, Python {machine['python']}, {versions}"
    lines = ["# The kit on a GPU", "", f"{about}. {record['seconds']:.0f} s in all.", ""]
    columns = ("section", "case", "type", "batch", "time", "over the forward passes", "memory, GiB", "note")
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    tests = record.get("tests")
    if tests:
        note = f"{tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped"
        wrong = [tests["error"]] if tests.get("error") else tests["failures"]
        note = _cell(". ".join([note, *wrong]))
        lines.append(f"| tests | marked gpu |  |  | {tests['seconds']:.0f} s |  |  | {note} |")
    for name, section in record["sections"].items():
        for row in section["rows"]:
            seconds, over, memory = (row.get(key) for key in ("seconds", "over_forward", "memory_gib"))
            cells = [
                name,
                row.get("case", ""),
                row.get("precision", ""),
                row.get("batch", ""),
                "" if seconds is None else f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s",
                "" if over is None else f"{100 * over:+.0f} %",
                "" if memory is None else f"{memory:.2f}",
                _cell(row.get("note", "")),
            ]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        if section["error"]:
            lines.append(
                f"| {name} | **failed** |  |  | {section['seconds']:.0f} s |  |  | {_cell(section['error'])} |"
            )
    lines += [f"| {name} | left out |  |  |  |  |  | no time was left |" for name in record["left_out"]]
    return "\n".join(lines) + "\n"


def _cell(text):
    """Text as a table's cell holds it."""
    short = " ".join(str(text).split()).replace("|", "/")
    return short if len(short) < 240 else f"{short[:240]} ..."


def has_failed(record):
    """Return whether a test or a section failed."""
    tests = record.get("tests")
    return any(s["error"] for s in record["sections"].values()) or bool(
        tests and (tests["failed"] or tests.get("error"))
    )


def main():
    """Run the sections, or one of them in this process; write record and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = list_sections()
    parser.add_argument("--only", nargs="+", choices=list(sections), metavar="SECTION", help=", ".join(sections))
    parser.add_argument("--seconds", type=float, default=SECONDS * SIZES.patience, help="for all sections together")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--table", type=Path, default=Path("gpu.md"))
    parser.add_argument("--before", type=Path, help="a JSON file of what was done before, kept in the record")
    parser.add_argument("--section", choices=list(sections), help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if SIZES.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU that PyTorch sees; GPU_STAND_IN=cpu tries everything on the CPU", file=sys.stderr)
        return 2
    if given.section:
        function, network, _ = sections[given.section]
        if SIZES.device == "cpu":
            torch.set_num_threads(1)
        function(network, Clock(given.limit))
        return 0
    started = time.monotonic()
    before = json.loads(given.before.read_text(encoding="utf-8")) if given.before else {}
    record = {"machine": describe_machine(), **before, "sections": {}, "left_out": []}
    for name in given.only or sections:
        left = given.seconds - (time.monotonic() - started)
        if left < 15:
            record["left_out"].append(name)
            continue
        print(f"{name} ...", end=" ", flush=True)
        limit = sections[name][2] * SIZES.patience
        section = record["sections"][name] = run_section(name, min(limit, left))
        if section["error"] and left < limit and section["error"].startswith("not done"):
            # The limit was not its own.
            section["error"] = None
            record["left_out"].append(name)
        print(f"{section['seconds']:.0f} s{', failed: ' + section['error'] if section['error'] else ''}", flush=True)
        record["seconds"] = before.get("seconds", 0.0) + time.monotonic() - started
        # After each: whatever happens then, these are kept.
        given.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        given.table.write_text(to_table(record), encoding="utf-8")
    print(f"\n{given.table.read_text(encoding='utf-8')}")
    return 1 if has_failed(record) else 0


if __name__ == "__main__":
    sys.exit(main())
