"""Synthetic runs of a comparison, that look like those of real ones."""

import math
import random

from evolpo.recipes.compare.runs import ComparedRun
from evolpo.recipes.runs.evaluation import Judged

LEVELS = {"easy": 0.25, "medium": 0.0, "hard": -0.3}
"""Accuracy of a difficulty level, less the mean."""
STEPS = 40


def compared_run(algorithm, seed, gain=0.4, collapse=0, refills=0, table="published", **changes):
    """A run whose accuracy rises from 0.3 by `gain`; from step `collapse` on, if that is not 0, it earns nothing."""
    noise = random.Random(f"{algorithm} {seed} {table}")
    luck = noise.gauss(0, 0.02)

    def accuracy(step):
        value = 0.3 + (gain + luck) * (1 - math.exp(-3 * step / STEPS))
        return 0.02 if collapse and step >= collapse else value

    records = [{"step": 0, "time": 0.0}]
    for step in range(1, STEPS + 1):
        reward = min(1.0, max(0.0, accuracy(step) + noise.gauss(0, 0.03)))
        records.append(
            {
                "step": step,
                "time": 3.0 * step,
                "groups/total": 8.0 * (1 + bool(refills)),
                "groups/refilled": 8.0 * bool(refills),
                "reward/math/mean": reward,
                "reward/mean": 0.5 if refills else reward,
                "response/tokens_mean": 20 + 15 * step / STEPS + noise.gauss(0, 1),
                "clip/low": abs(noise.gauss(0.01, 0.004)),
                "clip/high": abs(noise.gauss(0.02, 0.004)),
                "ratio/max": 1.1 + abs(noise.gauss(0, 0.1)),
                "ratio/min": 0.9 - abs(noise.gauss(0, 0.05)),
                "grad_norm": abs(noise.gauss(0.9, 0.1)),
                "loss": noise.gauss(0, 0.01),
                "logprob_gap/mean": 0.002,
                "logprob_gap/max": 0.2,
                "seconds/step": 3.0,
            }
        )
    fields = {
        "table": table,
        "algorithm": algorithm,
        "seed": seed,
        "folder": f"outputs/{algorithm}/{seed}",
        "status": "ok",
        "error": "",
        "records": tuple(records),
        "evaluations": {step: judged(accuracy(step), 100 + seed) for step in range(0, STEPS + 1, 10)},
        "config": {
            "name": f"{algorithm}_{seed}",
            "seed": seed,
            "prompts_per_step": 8,
            "responses_per_prompt": 4,
            "data": {"train": [{"difficulty": level} for level in ("easy", "medium", "hard")]},
            "algorithm": {
                "name": algorithm.partition(":")[0],
                "clip_low": None,
                "clip_high": None,
                "kl_coef": 0.0,
                "max_refills": refills,
            },
        },
    }
    return ComparedRun(**(fields | changes))


def judged(accuracy, seed, problems=150):
    """Verdicts on held-out problems of three levels."""
    noise = random.Random(seed)
    rows = []
    for number in range(problems):
        level = list(LEVELS)[number % len(LEVELS)]
        right = noise.random() < min(0.98, max(0.0, accuracy + LEVELS[level]))
        rows.append(Judged(f"problem-{number}", level, int(right), 1, 25.0 + number % 7))
    return tuple(rows)


def failed_run(algorithm, seed, **changes):
    """A run that died after eight steps."""
    run = compared_run(algorithm, seed)
    early = {0: run.evaluations[0]}
    fields = {"status": "failed", "error": "RuntimeError: out of memory", "records": run.records[:9]}
    return compared_run(algorithm, seed, **(fields | {"evaluations": early} | changes))


def pending_run(algorithm, seed, **changes):
    """A run that never started."""
    return compared_run(
        algorithm,
        seed,
        **({"status": "pending", "folder": "", "records": (), "evaluations": {}, "config": {}} | changes),
    )


def a_comparison():
    """Two tables of six algorithms: one better, one that collapses, one with a failed and a pending run."""
    gains = {"lpo": 0.52, "lpo:token": 0.4, "grpo": 0.4, "dapo": 0.42, "gspo": 0.25, "gspo_token_mean": 0.38}
    runs = []
    for table, more in (("published", 0.0), ("tuned", 0.05)):
        for name, gain in gains.items():
            for seed in range(5):
                collapse = 25 if name == "gspo" and seed == 3 else 0
                refills = 3 * (name == "dapo")
                if name == "grpo" and seed == 4:
                    runs.append(failed_run(name, seed, table=table))
                elif name == "gspo_token_mean" and seed == 4 and table == "tuned":
                    runs.append(pending_run(name, seed, table=table))
                else:
                    runs.append(compared_run(name, seed, gain + more, collapse, refills, table))
    return runs
