"""Sweeps whose verdict is known, in the formats of other trainers: losses of valleys with noise, by widths and rates."""

import csv
import json
import math

import numpy as np

WIDTHS = (64, 128, 256, 512)
OCTAVES = tuple(range(-13, -4))


def runs(slope=0.0, *, noise=0.004, seeds=3, widths=WIDTHS, octaves=OCTAVES, at=-8.0):
    """Width, rate, seed and loss of each run; the best rate is 2**(at + slope * doublings)."""
    rng = np.random.default_rng(0)
    for width in widths:
        doublings = math.log2(width / widths[0])
        for octave in octaves:
            for seed in range(seeds):
                loss = 2.6 - 0.1 * doublings + 0.06 * (octave - at - slope * doublings) ** 2 + noise * rng.normal()
                yield width, 2.0**octave, seed, loss


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def wandb_export(path, sweep):
    """The runs table of a project as its CSV export: name, state, config and summary side by side."""
    rows = [
        {"Name": f"run-{i}", "State": "finished", "Tags": "", "lr": rate, "n_embd": width, "seed": seed}
        | {"train/lr": rate / 100, "train/loss": loss - 0.1, "val/loss": loss, "_step": 1000}
        for i, (width, rate, seed, loss) in enumerate(sweep)
    ]
    return write_csv(path, rows)


def mlflow_export(path, sweep):
    """`mlflow.search_runs().to_csv()`."""
    rows = [
        {"": i, "run_id": f"{i:032x}", "experiment_id": "0", "status": "FINISHED", "start_time": "2026-01-01 00:00:00"}
        | {
            "metrics.lr": rate / 100,
            "metrics.val_loss": loss,
            "params.lr": rate,
            "params.d_model": width,
            "params.seed": seed,
        }
        for i, (width, rate, seed, loss) in enumerate(sweep)
    ]
    return write_csv(path, rows)


def mlflow_folder(folder, sweep):
    """A file store: `mlruns/EXPERIMENT/RUN/params/lr`, a file for each parameter, a line a step for each metric."""
    experiment = folder / "123"
    experiment.mkdir(parents=True)
    (experiment / "meta.yaml").write_text("experiment_id: '123'\nlifecycle_stage: active\nname: sweep\n")
    for i, (width, rate, seed, loss) in enumerate(sweep):
        run = experiment / f"{i:032x}"
        for name, text in {
            "meta.yaml": f"lifecycle_stage: active\nrun_id: {i:032x}\nstatus: 3\n",
            "params/lr": f"{rate}",
            "params/width": f"{width}",
            "params/seed": f"{seed}",
            "metrics/val_loss": f"1700000000000 {loss + 1} 0\n1700000009000 {loss} 100\n",
        }.items():
            path = run / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder


def wandb_folder(folder, sweep):
    """`wandb/run-TIME-ID/files`: config.yaml and wandb-summary.json."""
    for i, (width, rate, seed, loss) in enumerate(sweep):
        files = folder / f"run-20260101_000000-{i:08d}" / "files"
        files.mkdir(parents=True)
        (files / "config.yaml").write_text(
            f"_wandb:\n    value:\n        cli_version: 0.19.1\nhidden_size:\n    value: {width}\n"
            f"lr:\n    desc: null\n    value: {rate}\nseed:\n    value: {seed}\n"
        )
        (files / "wandb-summary.json").write_text(
            json.dumps({"_step": 9, "eval": {"loss": loss}, "_wandb": {"runtime": 3}})
        )
    return folder


def tensorboard_folder(folder, sweep):
    """A folder for each run, named by its hyperparameters, with the scalars of its steps."""
    from tensorboardX import SummaryWriter

    for width, rate, seed, loss in sweep:
        writer = SummaryWriter(str(folder / f"width={width},lr={rate},seed={seed}"))
        for step, more in ((0, 1.0), (100, 0.0)):
            writer.add_scalar("loss/val", loss + more, step)
        writer.close()
    return folder


def steps_of(sweep):
    """Rows of a trainer that logs as it goes: training losses at each step, a validation loss now and then."""
    for i, (width, rate, seed, loss) in enumerate(sweep):
        run = {"run": f"r{i}", "config": {"width": width, "learning_rate": rate, "seed": seed}}
        for step in (0, 50, 100, 101):
            row = {**run, "step": step, "train_loss": loss}
            yield row | ({"val_loss": loss + (100 - step) / 100} if step % 50 == 0 else {})
