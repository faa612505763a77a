"""The learning rate by step, against torch's schedulers, closed forms, and points that can be told by head."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import tiny_config
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, PolynomialLR, SequentialLR

from megacode.config.schema import RunConfig
from megacode.optim.learning_rate import learning_rate

LR, STEPS, WARM_UP = 1e-3, 100, 10


def schedule(**optim: object) -> RunConfig:
    """100 steps, 10 of warm-up, from 1e-3."""
    return tiny_config(train={"steps": STEPS}, optim={"lr": LR, "lr_warmup": WARM_UP, **optim})


def by_torch(after: type[LRScheduler], **options: object) -> list[float]:
    """The rates of torch: step 1 .. 100."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    warm_up = LinearLR(optimizer, 1 / WARM_UP, 1.0, total_iters=WARM_UP - 1)
    scheduler = SequentialLR(optimizer, [warm_up, after(optimizer, **options)], [WARM_UP - 1])
    rates = []
    for _ in range(STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("optim", "theirs"),
    [
        ({"lr_min": 1e-4}, (CosineAnnealingLR, {"T_max": STEPS - WARM_UP, "eta_min": 1e-4})),
        ({"lr_schedule": "linear"}, (LinearLR, {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 90})),
        ({"lr_schedule": "polynomial", "lr_power": 2.5}, (PolynomialLR, {"total_iters": 90, "power": 2.5})),
        (
            {"lr_schedule": "polynomial", "lr_power": 0.5, "lr_decay": 60},
            (PolynomialLR, {"total_iters": 50, "power": 0.5}),
        ),
        ({"lr_schedule": "inverse_square_root"}, (LambdaLR, {"lr_lambda": lambda n: math.sqrt(10 / (n + 10))})),
        ({"lr_schedule": "constant"}, (LambdaLR, {"lr_lambda": lambda n: 1.0})),
    ],
)
def test_the_rates_are_torchs(optim: dict, theirs: tuple) -> None:
    config = schedule(**optim)
    ours = [learning_rate(config, step) for step in range(1, STEPS + 1)]
    assert ours == pytest.approx(by_torch(theirs[0], **theirs[1]), rel=1e-9, abs=1e-12)


def test_the_learning_rate_is_megatrons() -> None:
    cosine, linear = schedule(lr_min=1e-4), schedule(lr_min=1e-4, lr_schedule="linear", lr_decay=60)
    assert learning_rate(cosine, 5) == pytest.approx(5e-4) and learning_rate(cosine, 10) == pytest.approx(1e-3)
    assert learning_rate(cosine, 55) == pytest.approx(1e-4 + 0.5 * 9e-4)
    assert learning_rate(cosine, 40) == pytest.approx(1e-4 + 0.5 * (1 + math.cos(math.pi / 3)) * 9e-4)
    assert learning_rate(cosine, 100) == learning_rate(cosine, 1000) == pytest.approx(1e-4)
    assert learning_rate(linear, 35) == pytest.approx(5.5e-4) and learning_rate(linear, 61) == pytest.approx(1e-4)


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial", "inverse_square_root"])
def test_every_way_down_warms_up_falls_and_ends_on_the_floor(name: str) -> None:
    config = schedule(lr_schedule=name, lr_min=4e-4)
    rates = [learning_rate(config, step) for step in range(1, 200)]
    assert rates[:WARM_UP] == pytest.approx([LR * step / WARM_UP for step in range(1, WARM_UP + 1)])
    assert all(after <= before for before, after in zip(rates[WARM_UP - 1 :], rates[WARM_UP:], strict=False))
    assert rates[-1] == rates[STEPS - 1] == pytest.approx(4e-4) and min(rates[WARM_UP:]) == pytest.approx(4e-4)


def test_without_warm_up_the_root_falls_from_the_first_step() -> None:
    config = schedule(lr_schedule="inverse_square_root", lr_warmup=0)
    assert [learning_rate(config, step) for step in (1, 4, 25)] == pytest.approx([LR, LR / 2, LR / 5])
