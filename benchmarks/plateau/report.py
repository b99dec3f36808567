"""Table and figures of the plateau study from its results: see ``plateau_study.py``.

    python benchmarks/plateau/report.py RESULTS [--output docs/images]

RESULTS is the study's folder ``results``, or a file that holds their lines one after the other.
"""

import argparse
import json
from pathlib import Path

import numpy as np

FACTORS = {
    "label 2 as foreground": ("foreground", "ignored"),
    "variance weight 0.5": ("variance0.5", "variance0"),
    "legacy handler": ("legacy", "bounded"),
}
"""Each suspect of the plateau case: what a cell's name says of it with the suspect, and without."""

TRAINING = (
    "loss of the best constant", "best loss", "best epoch", "last loss", "last loss / constant", "dice component",
    "variance component", "output mean", "output spread", "target share", "gradient norm", "interventions",
    "highest rate / base",
)  # fmt: skip
HELD_OUT = (
    "dice at 0.5", "dice matched", "score at 0.5", "score matched", "label score at 0.5", "label score matched",
    "area under curve",
)  # fmt: skip


def read_results(path) -> list[dict]:
    """Return the results of the study, sorted by cell and seed.

    Parameters
    ----------
    path : str or Path
        Folder of ``*.json``, or a file of such lines.

    Returns
    -------
    list of dict
    """
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(map(json.loads, lines), key=lambda result: (cell_order(result["cell"]), result["seed"]))


def cell_order(name):
    """The eight cells from all suspects to none, then the configurations."""
    parts = name.split("-")
    return (len(parts) == 2, [part in ("ignored", "variance0", "bounded", "v6") for part in parts])


def summarise(result) -> dict:
    """Return the figures of one run that the tables show.

    Parameters
    ----------
    result : dict
        Of `read_results`.

    Returns
    -------
    dict
        Numbers by their names: those of ``TRAINING`` and those of ``HELD_OUT``.
    """
    curves, chunks = result["curves"], result["held_out"]
    losses = np.array(curves["loss"], float)
    last = {name: values[-1] for name, values in curves.items()}
    return {
        "loss of the best constant": result["best_constant"]["loss"],
        "best loss": float(np.nanmin(losses)),
        "best epoch": int(np.nanargmin(losses)),
        "last loss": last["loss"],
        "last loss / constant": last["loss"] / result["best_constant"]["loss"],
        "dice component": last["dice"],
        "variance component": last.get("variance", np.nan),
        "output mean": last["output_mean"],
        "output spread": last["output_std"],
        "target share": last["surface_share"],
        "gradient norm": float(np.median(curves["gradient_norm"])),
        "interventions": sum(curves["interventions"]),
        "highest rate / base": max(curves["rate"]) / result["base_rate"],
        "dice at 0.5": mean_of(chunks, "half", "surface_dice_truth"),
        "dice matched": mean_of(chunks, "matched", "surface_dice_truth"),
        "score at 0.5": mean_of(chunks, "half", "score_truth"),
        "score matched": mean_of(chunks, "matched", "score_truth"),
        "label score at 0.5": mean_of(chunks, "half", "score_label"),
        "label score matched": mean_of(chunks, "matched", "score_label"),
        "area under curve": mean_of(chunks, "auc"),
    }


def mean_of(chunks, *keys):
    """Mean over the held-out chunks of a value that lies under the keys."""
    values = []
    for chunk in chunks:
        for key in keys:
            chunk = chunk[key]
        values.append(chunk)
    return float(np.mean(values))


def write_table(results, figures=HELD_OUT) -> str:
    """Return the results as a Markdown table: one line a cell, mean and range over the seeds.

    Parameters
    ----------
    results : list of dict
        Of `read_results`.
    figures : sequence of str
        Of `summarise`: the columns.

    Returns
    -------
    str
    """
    rows = {}
    for result in results:
        rows.setdefault(result["cell"], []).append(summarise(result))
    lines = ["| cell | seeds | " + " | ".join(figures) + " |", "|---" * (len(figures) + 2) + "|"]
    for cell, runs in rows.items():
        values = [format_spread([run[name] for run in runs]) for name in figures]
        lines.append(f"| {cell} | {len(runs)} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def format_spread(values):
    """Mean, and smallest to largest where they differ."""
    low, mean, high = min(values), float(np.mean(values)), max(values)
    if np.isnan(mean):
        return "-"
    form = "{:.0f}" if all(float(value).is_integer() for value in values) else "{:.1f}" if mean >= 10 else "{:.2f}"
    if form.format(low) == form.format(high):
        return form.format(mean)
    return f"{form.format(mean)} ({form.format(low)} to {form.format(high)})"


def write_effects(results, figure="dice matched", among="") -> str:
    """Return what each suspect does to a figure: the difference between cells that differ in it alone, seed by seed.

    Parameters
    ----------
    results : list of dict
        Of `read_results`.
    figure : str
        Of `summarise`.
    among : str
        Only cells whose names hold this word.

    Returns
    -------
    str
        A Markdown table: mean of the pairs, their range, how many of them got worse.
    """
    values = {(result["cell"], result["seed"]): summarise(result)[figure] for result in results}
    lines = [f"| suspect | change of {figure} | smallest to largest | pairs that get worse |", "|---|---|---|---|"]
    for suspect, (word, cure) in FACTORS.items():
        pairs = []
        for (cell, seed), value in values.items():
            parts = cell.split("-")
            if among not in cell:
                continue
            cured = "-".join(cure if part == word else part for part in parts), seed
            if len(parts) == 3 and word in parts and cured in values:
                pairs.append(value - values[cured])
        if pairs:
            worse = sum(pair < 0 for pair in pairs)
            lines.append(
                f"| {suspect} | {np.mean(pairs):+.3f} | {min(pairs):+.3f} to {max(pairs):+.3f} | {worse} of {len(pairs)} |"
            )
    return "\n".join(lines)


def draw_curves(results, path) -> None:
    """Draw loss, dice component, output spread and rate over the epochs: one column for each reading and variance weight.

    Parameters
    ----------
    results : list of dict
        Of `read_results`.
    path : str or Path
        PNG to write.
    """
    from matplotlib.figure import Figure

    columns = {
        "foreground-variance0.5": "label > 0, variance 0.5",
        "foreground-variance0": "label > 0, variance 0",
        "ignored-variance0.5": "2 ignored, variance 0.5",
        "ignored-variance0": "2 ignored, variance 0",
        "foreground": "label > 0, v5 and v6",
        "ignored": "2 ignored, v5 and v6",
    }
    rows = {
        "validation loss": "loss",
        "dice component": "dice",
        "spread of the output": "output_std",
        "rate / base": "rate",
    }
    colours = {"legacy": "tab:red", "bounded": "tab:blue", "v5": "tab:red", "v6": "tab:blue"}
    figure = Figure(figsize=(3 * len(columns), 2.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), sharex=True, squeeze=False)
    for (start, title), line in zip(columns.items(), axes.T):
        labelled = set()
        for result in results:
            group, kind = result["cell"].rsplit("-", 1)
            if group != start:
                continue
            for name, axis in zip(rows.values(), line):
                curve = np.array(result["curves"][name], float)
                if name == "rate":
                    curve /= result["base_rate"]
                axis.plot(curve, color=colours[kind], lw=1, alpha=0.8, label=None if kind in labelled else kind)
            labelled.add(kind)
        line[0].set_title(title, fontsize=10)
        if labelled:
            line[0].legend(fontsize=8)
        line[-1].set_yscale("log")
        line[-1].axhline(5, color="grey", lw=0.8, ls=":")
        line[-1].set_xlabel("epoch")
    for name, line in zip(rows, axes):
        line[0].set_ylabel(name)
        low, high = (pick(axis.get_ylim()[side] for axis in line) for side, pick in ((0, min), (1, max)))
        for axis in line:
            axis.set_ylim(low, high)
            axis.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


def draw_scores(results, path) -> None:
    """Draw what each run reaches on the held-out chunks: a dot a seed, a line a cell.

    Parameters
    ----------
    results : list of dict
        Of `read_results`.
    path : str or Path
        PNG to write.
    """
    from matplotlib.figure import Figure

    cells = list(dict.fromkeys(result["cell"] for result in results))
    shown = {
        "dice at 0.5": "SurfaceDice@2, truth, mask at 0.5",
        "dice matched": "SurfaceDice@2, truth, matched share",
        "score matched": "score, truth, matched share",
        "area under curve": "area under the curve",
    }
    figure = Figure(figsize=(3.2 * len(shown) + 1.5, 0.34 * len(cells) + 1), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, len(shown), sharey=True), shown.items()):
        for height, cell in enumerate(cells):
            values = [summarise(result)[name] for result in results if result["cell"] == cell]
            colour = "tab:red" if cell.startswith("foreground") else "tab:blue"
            axis.plot(values, [height] * len(values), "o", color=colour, ms=5, alpha=0.7)
            axis.plot([np.mean(values)], [height], "|", color="black", ms=14)
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
        axis.set_yticks(range(len(cells)), cells, fontsize=8)
    axis.invert_yaxis()
    figure.savefig(path, dpi=90)


def draw_slices(results_folder, results, path, seed=0) -> None:
    """Draw the middle slice of the first held-out chunk: image, truth, and what each cell makes of it.

    Parameters
    ----------
    results_folder : str or Path
        Holds ``{cell}_{seed}.npz``.
    results : list of dict
        Of `read_results`.
    path : str or Path
        PNG to write.
    seed : int
        Whose runs are shown.
    """
    from matplotlib.figure import Figure

    shown = [result for result in results if result["seed"] == seed]
    columns = (len(shown) + 3) // 2
    figure = Figure(figsize=(2.2 * columns, 4.9), layout="constrained")
    axes = figure.subplots(2, columns).ravel()
    for axis in axes:
        axis.set_axis_off()
    for place, result in enumerate(shown):
        with np.load(Path(results_folder) / f"{result['cell']}_{seed}.npz") as slices:
            chunk = result["held_out"][0]["id"]
            if place == 0:
                axes[0].imshow(slices[f"image_{chunk}"], cmap="gray")
                axes[0].set_title("image", fontsize=8)
                axes[1].imshow(slices[f"truth_{chunk}"], cmap="gray")
                axes[1].set_title("full truth", fontsize=8)
            axes[place + 2].imshow(slices[f"probability_{chunk}"], cmap="gray", vmin=0, vmax=255)
            axes[place + 2].set_title(result["cell"].replace("variance", "var "), fontsize=7)
    figure.savefig(path, dpi=100)


def main(arguments=None) -> None:
    """Print the tables and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", help="the study's folder results, or a file of its lines")
    parser.add_argument("--output", default="docs/images", help="folder for plateau_*.png")
    given = parser.parse_args(arguments)
    results = read_results(given.results)
    if not results:
        parser.error(f"{given.results} holds no result")
    print(f"{write_table(results, TRAINING)}\n\n{write_table(results)}")
    for figure in ("dice matched", "dice at 0.5", "score matched", "area under curve"):
        print(f"\n{write_effects(results, figure)}")
        print(f"\nwith the labels read rightly:\n{write_effects(results, figure, among='ignored')}")
    output = Path(given.output)
    output.mkdir(parents=True, exist_ok=True)
    draw_curves(results, output / "plateau_curves.png")
    draw_scores(results, output / "plateau_scores.png")
    if Path(given.results).is_dir():
        draw_slices(given.results, results, output / "plateau_slices.png")


if __name__ == "__main__":
    main()
