"""Plots of the benchmark of quality: error over evaluations, and what was fitted."""

from pathlib import Path
from typing import Any

from benchmarks.quality.report import Cell, modes_of
from dode.images import pyplot


def _panels(cells: list[Cell]) -> tuple[list[str], list[float]]:
    return list(dict.fromkeys(c["model"] for c in cells)), sorted({c["guidance"] for c in cells})


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure and let go of it."""
    figure.savefig(path, dpi=110)
    pyplot().close(figure)
    return path


def work_precision(cells: list[Cell], path: Path) -> Path:
    """Error over evaluations, best stock against each mode: a panel a model and guidance scale."""
    plt = pyplot()
    models, guidances = _panels(cells)
    size = (3.4 * len(guidances) + 0.4, 2.8 * len(models) + 0.4)
    figure, axes = plt.subplots(len(models), len(guidances), figsize=size, squeeze=False, layout="constrained")
    for row, model in enumerate(models):
        for column, guidance in enumerate(guidances):
            axis = axes[row, column]
            here = sorted(
                (c for c in cells if (c["model"], c["guidance"]) == (model, guidance)), key=lambda c: c["evaluations"]
            )
            if not here:
                axis.set_axis_off()
                continue
            stock = {c["evaluations"]: c["stock"]["error"] for c in here}
            stock |= {int(n): e for c in here for n, e in c.get("stock_beyond", {}).items()}
            axis.semilogy(sorted(stock), [stock[n] for n in sorted(stock)], "o-", color="0.5", label="best stock")
            for mode in modes_of(here):
                points = [(c["evaluations"], c["distilled"][mode]["error"]) for c in here if mode in c["distilled"]]
                axis.semilogy(*zip(*points, strict=True), "o-", label=f"distilled, {mode}")
            axis.axhline(here[0]["reference_error"], color="0.8", linestyle=":", linewidth=1)
            axis.set(title=f"{model}, guidance {guidance:g}", xlabel="evaluations", ylabel="RMS error")
            axis.grid(True, which="both", linewidth=0.3)
    next(axis for axis in axes.flat if axis.lines).legend(fontsize=8)
    return save_figure(figure, path)


def error_over(rows: list[Cell], label: str, path: Path) -> Path:
    """Error of fits over one of their settings: numbers, or a solver and a number, as in "ipndm x 6"."""
    plt = pyplot()
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        solver, _, number = str(row[label]).rpartition(" x ")
        name = f"{row['model']}, guidance {row['guidance']:g}, {row['NFE']} NFE, {row['mode']}{', ' * bool(solver)}{solver}"
        lines.setdefault(name, []).append((int(number), row["error"]))
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for name, points in lines.items():
        axis.plot(*zip(*points, strict=True), "o-", label=name)
    axis.set(xlabel=label, ylabel="RMS error", yscale="log")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(True, which="both", linewidth=0.3)
    axis.legend(fontsize=7)
    return save_figure(figure, path)


def fitted(cells: list[Cell], mode: str, path: Path) -> Path:
    """The grids and the values fitted in one mode: a row a model and guidance scale, a column a kind."""
    plt = pyplot()
    models, guidances = _panels(cells)
    groups = [(m, w) for m in models for w in guidances if any((c["model"], c["guidance"]) == (m, w) for c in cells)]
    figure, axes = plt.subplots(len(groups), 2, figsize=(8.2, 2.3 * len(groups) + 0.4), squeeze=False, layout="constrained")
    for (left, right), (model, guidance) in zip(axes, groups, strict=True):
        for cell in (c for c in cells if (c["model"], c["guidance"]) == (model, guidance) and mode in c["distilled"]):
            parameters: dict[str, Any] = cell["distilled"][mode]["parameters"]
            grid = [s for s in parameters["sigmas"] if s > 0]
            label = f"{parameters['method']}, {cell['evaluations']} NFE"
            left.plot(range(len(grid)), grid, ".-", label=label)
            values = parameters["values"]
            right.plot(range(1, len(values) + 1), [row[0] for row in values], ".-", label=label)
        left.set(title=f"{model}, guidance {guidance:g}: grid", xlabel="step", ylabel="σ", yscale="log")
        right.set(title="λ of the newest difference", xlabel="row")
        right.axhline(0, color="0.5", linewidth=0.8)
        for axis in (left, right):
            axis.locator_params(axis="x", integer=True)
        left.legend(fontsize=6)
    return save_figure(figure, path)


def error_over_spending(result: dict[str, Any], label_of: Any, limits: list[Cell], path: Path) -> Path:
    """Error over what fits spend, both on logarithmic scales: a panel a cell, a line a method; dotted, what ``limits`` say is
    left to any of them."""
    plt = pyplot()
    panels, keys = result["stock"], ("model", "guidance", "NFE")
    size = (5.4 * len(panels), 4.6)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharex=True, layout="constrained")
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))
    for axis, cell in zip(axes.flat, panels, strict=True):
        for number, method in enumerate(methods):
            here = [row for row in result["rows"] if row["method"] == method and all(row[k] == cell[k] for k in keys)]
            if here:
                points = sorted((row["evaluations"], row["ratio"]) for row in here)
                style = "s--" if method.endswith("before") else "o-"
                axis.loglog(*zip(*points, strict=True), style, color=f"C{number}", markersize=4, label=label_of(method))
        for row in limits:
            if all(row[k] == cell[k] for k in keys):
                axis.axhline(row["limit"] / cell["error"], color="0.3", linestyle=":", linewidth=1, label="limit")
        axis.axhline(1.0, color="0.5", linewidth=0.8)
        axis.set(title=f"{cell['model']}, guidance {cell['guidance']:g}, {cell['NFE']} NFE")
        axis.set(xlabel="guided evaluations spent on the fit", ylabel="error / best stock sampler's")
        axis.yaxis.set_major_formatter("{x:.2g}")
        axis.yaxis.set_minor_formatter("{x:.1g}")
        axis.grid(True, which="both", linewidth=0.3)
    found = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=min(4, 2 * len(panels)), fontsize=7)
    return save_figure(figure, path)
