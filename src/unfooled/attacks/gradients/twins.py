"""Distilled twins: networks with usable gradients, trained on a model's outputs, for transfer attacks.

    pool_0 = x and random points of T(x);   pool_{r+1} = pool_r and argmax_{z in T(x)} l(twin_r(z), y)
    twin_r = argmin mean KL( softmax(f(z) / s) || softmax(twin(z)) ) over pool_r

x are the samples, T(x) the threat, f the model, l the loss, y the model's prediction at x, s a scale. A model can
hide its gradient, but not its outputs: a network trained on them near the samples has a similar decision boundary, and
a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adamw import adamw

from unfooled.attacks.gradients.custom import check_count
from unfooled.attacks.pgd import pgd, pgd_from
from unfooled.attacks.restarts import check_restarts, repeat
from unfooled.core import rng
from unfooled.core.checks import check_attack, check_mode, trusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import Attack, checked_once, logits_at
from unfooled.core.losses import margin
from unfooled.core.model.calls import copied
from unfooled.core.model.modes import channels_last
from unfooled.core.pulse import beat, report_stage
from unfooled.core.shapes import where_rows
from unfooled.core.threats import TINY, Threat
from unfooled.core.types import BudgetAttack, Model
from unfooled.models.nets.small_cnn import SmallCnn
from unfooled.runs.chunks import ComputeOnce, Rows
from unfooled.runs.stage_names import StageName

TWIN = StageName("twin", "training a stand-in")

EPS_FACTOR = 1.2  # the twin is trained within this multiple of eps, since attacks end on the surface of the ball
MAX_LABEL_VALUES = 32  # largest number of distinct output values that are taken as labels
STEPS_PER_STATE = 20  # training steps after which the state is stored
STEP_SIZE = 3e-3  # first step size of AdamW
MIN_STEPS, USUAL_BATCH = 300, 64  # least number of training steps in the last round, at this number of samples a step
MIN_STRIDED_SIDE = 16  # sides of images from which on a brief twin has strides
TARGET_MARGIN = 4.0  # median margin of the logits that the twin is trained on


def distil(
    model: Model,
    x: Tensor,
    threat: Threat,
    *,
    rounds: int = 3,
    points: int = 4,
    epochs: int = 10,
    width: int | None = None,
    module: nn.Module | None = None,
    batch: int = 64,
    seed: int = 0,
    keep: ComputeOnce | None = None,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> nn.Module:
    """Train a small network on the model's outputs at and around the samples.

    Args:
        model: Any callable to logits; only its values are used.
        x: Inputs in the threat's box, (n, *D); one twin is trained for all of them.
        threat: Set of points at which the model is queried; its eps may be (n,).
        rounds: Rounds of queries and training; the first uses only random points, later ones also adversarial points of
            the current twin.
        points: Queries per sample and round, at least 1. Cost: 1 + rounds * points forwards of the model per
            sample, no backward.
        epochs: Epochs over all points in the last round, a third as many in the others; more if those
            are fewer than `MIN_STEPS` steps, or a share of these for a batch below `USUAL_BATCH`.
        width: Channels of the twin. None: depends on the image size.
        module: Untrained network to copy and train. None: `SmallCnn` for images of at least 4x4, else two hidden
            layers of ReLU.
        batch: Samples per training step; queries of the model use 16 times as many.
        seed: Random seed of the weights, the order and the points.
        keep: Store of answers and of the training's states, by which a second start continues. None: none.
        observe: Function that gets all points at which the model was queried, and its answers. None: none.

    Returns:
        The twin, in eval mode. Its logits are those of the model, divided by a constant.

    Raises:
        BadInput: Inputs that cannot be used.

    References:
        Papernot et al., Practical black-box attacks against machine learning, AsiaCCS 2017, arXiv:1602.02697.
        Differs: soft outputs if the model has them, points from the threat and from attacks on the twin instead of
        steps along its Jacobian.
    """
    check_attack(x, torch.zeros(len(x), dtype=torch.int64), threat)
    check_mode(model)
    for name, number in (("points", points), ("epochs", epochs), ("batch", batch)):
        check_count(number, name)
    query = partial(_query, checked_once(model), batch=16 * batch)
    keep = keep or compute_directly
    pool, answers = [x.detach()], [_stored(keep, "clean", partial(query, x), x)]
    label = answers[0].argmax(1)
    twin = copied(module) if module is not None else untrained(x, answers[0].shape[1], width, seed=seed)
    twin = twin.to(x.device, x.dtype)
    enlarged = threat.bounded(x).scaled(EPS_FACTOR)
    for r in range(rounds):
        report_stage(TWIN, r, rounds)
        for k in range(points):
            z = _random(enlarged, x, seed, r * points + k)
            if r and k % 2:
                z = _stored(keep, f"points-{r}-{k}", partial(_fooling, twin, z, x, label, enlarged), x)
            pool.append(z)
        new_points = pool[-points:]
        answers.append(_stored(keep, f"answers-{r}", partial(_joined, query, new_points), x))
        # Short training before the last round: the twin only selects the next queries.
        share = 1.0 if r == rounds - 1 else 1 / 3
        steps = math.ceil(share * steps_of(epochs, len(x) * len(pool), batch))
        fit(
            twin, torch.cat(pool), _targets(torch.cat(answers)), steps, batch, seed + r, with_prefix(keep, f"round-{r}")
        )
    if observe is not None:
        observe(torch.cat(pool), torch.cat(answers))
    report_stage(TWIN, rounds, rounds)
    return twin.eval()


def steps_of(epochs: int, points: int, batch: int) -> int:
    """Return the number of training steps of some epochs over a number of points, at least `MIN_STEPS`.

    A batch below `USUAL_BATCH` asks for a training that costs little: its least number of steps falls in proportion.
    """
    return max(epochs * -(-points // batch), MIN_STEPS * min(batch, USUAL_BATCH) // USUAL_BATCH)


def _query(model: Model, z: Tensor, *, batch: int) -> Tensor:
    """Return the model's outputs, without a graph."""
    with torch.no_grad():
        return logits_at(model, z.detach(), batch=batch).detach()


def _fooling(twin: nn.Module, z: Tensor, x: Tensor, label: Tensor, threat: Threat) -> Tensor:
    """Return points where the twin predicts that the model is fooled, by ascent from z."""
    with trusted():
        return pgd_from(z, twin, x, label, threat, steps=8, stop=False)


def compute_directly(name: str, compute: Callable[[], Rows]) -> Rows:
    """Compute without storing."""
    return compute()


def _stored(keep: ComputeOnce, name: str, compute: Callable[[], Tensor], like: Tensor) -> Tensor:
    """Return a tensor on the device of another one: that of an earlier start, or computed and stored."""
    return keep(name, lambda: {"values": compute()})["values"].to(like.device)


def with_prefix(keep: ComputeOnce, prefix: str) -> ComputeOnce:
    """Return a store whose names begin with a prefix."""
    return lambda name, compute: keep(f"{prefix}-{name}", compute)


def _joined(query: Callable[[Tensor], Tensor], sets: Sequence[Tensor]) -> Tensor:
    """Return the answers to several sets of points, one after the other."""
    return torch.cat([query(z) for z in sets])


def _random(threat: Threat, x: Tensor, seed: int, draw: int) -> Tensor:
    """Draw random points; every other draw is an extreme one, where attacks end."""
    if draw % 2:
        return threat.extreme(x, seed, draw=draw, stage=rng.Stream.TWIN)
    return threat.sample(x, seed, draw=draw, stage=rng.Stream.TWIN)


def untrained(x: Tensor, classes: int, width: int | None = None, *, seed: int = 0, brief: bool = False) -> nn.Module:
    """Build an untrained network for inputs like x; the global generator is not changed.

    A brief one is for trials: of large images, it sees every second row and column of windows that overlap.
    """
    shape = tuple(x.shape[1:])
    image = len(shape) == 3 and min(shape[1:]) >= 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if brief and image and min(shape[1:]) >= MIN_STRIDED_SIDE:
            return _strided(shape, classes)
        if image:
            # Half as wide at four times the pixels: about the same time.
            return SmallCnn(shape, classes, width or (16 if shape[1] * shape[2] <= 256 else 8))
        hidden = width or 128
        first, last = nn.Linear(math.prod(shape), hidden), nn.Linear(hidden, classes)
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)


def _strided(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build a network of two convolutions of stride 2, which costs a fraction of `SmallCnn`."""
    channels, height, width = shape
    net = nn.Sequential(
        nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return net


def _targets(answers: Tensor) -> Tensor:
    """Convert outputs to training targets, (N, K): softened probabilities, NaN where undefined."""
    defined = answers[torch.isfinite(answers).all(1)]
    if not len(defined):
        raise BadInput(
            "the model's outputs are NaN or infinite at every point; a twin cannot be trained; mend the model"
        )
    classes = answers.shape[1]
    if len(defined[: 4 * MAX_LABEL_VALUES].unique()) <= MAX_LABEL_VALUES:
        # Outputs that are in effect labels (one-hot rows, rounded scores): their scale has no meaning.
        hard = F.one_hot(answers.nan_to_num().argmax(1), classes).to(answers.dtype)
        return where_rows(torch.isfinite(answers).all(1), 0.9 * hard + 0.1 / classes, torch.full_like(hard, torch.nan))
    if bool((defined >= 0).all()) and bool(((defined.sum(1) - 1).abs() < 1e-3).all()):
        answers, defined = answers.clamp_min(1e-12).log(), defined.clamp_min(1e-12).log()
    top = defined.topk(2, dim=1).values
    return (answers / ((top[:, 0] - top[:, 1]).median() / TARGET_MARGIN).clamp_min(TINY)).softmax(1)


def fit(
    twin: nn.Module, pool: Tensor, targets: Tensor, steps: int, batch: int, seed: int, keep: ComputeOnce | None = None
) -> None:
    """Train the twin on all points so far by AdamW, with steps that decay along half a cosine.

    The state of the training is stored every `STEPS_PER_STATE` steps.
    """
    keep = keep or compute_directly
    known = torch.isfinite(targets).all(1)
    pool, targets = _channels_last(pool[known]), targets[known].to(pool.dtype)
    channels_last(twin).train()  # pooling is several times as fast on a CPU
    order = _order(len(pool), steps, batch, seed)

    def advance(batches: Sequence[Tensor], before: Rows) -> Rows:
        descent = Descent(twin, steps)
        if before:
            descent.restore(before)
        with torch.enable_grad():
            for rows in batches:
                rows = rows.to(pool.device)
                loss = F.kl_div(twin(pool[rows]).log_softmax(1), targets[rows], reduction="batchmean")
                descent.step(torch.autograd.grad(loss, descent.parameters))
                beat(len(rows))
        return descent.state()

    state: Rows = {}
    for start in range(0, steps, STEPS_PER_STATE):
        state = keep(str(start), partial(advance, order[start : start + STEPS_PER_STATE], state))
    _restore_weights(state, twin)
    twin.eval()


def _channels_last(x: Tensor) -> Tensor:
    """Return images with the channels last in memory, and other inputs as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _order(n: int, steps: int, batch: int, seed: int) -> list[Tensor]:
    """Return the rows of each step: another permutation of all in every epoch, the last batch first."""
    source = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    while len(order) < steps:
        order += reversed(torch.randperm(n, generator=source).split(batch))
    return order[:steps]


class Descent:
    """AdamW with steps that decay along half a cosine, equal to torch's optimizer and scheduler bit for bit.

    It calls torch's own function. `torch.optim.AdamW` would import torch's compiler when it is constructed, which takes
    longer than the training of a small twin.
    """

    def __init__(self, net: nn.Module, steps: int) -> None:
        """Start a training of `steps` steps."""
        self.net, self.steps, self.taken, self.rate = net, steps, 0, STEP_SIZE
        self.parameters: list[Tensor] = list(net.parameters())
        self.first, self.second = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self.counts = [torch.tensor(0.0) for _ in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Take one step, and shorten the next."""
        adamw(
            self.parameters, list(gradients), self.first, self.second, [], self.counts, amsgrad=False,
            beta1=0.9, beta2=0.999, lr=self.rate, weight_decay=1e-2, eps=1e-8, maximize=False,
        )  # fmt: skip
        self.taken += 1
        last, now = (1 + math.cos(math.pi * t / self.steps) for t in (self.taken - 1, self.taken))
        self.rate *= now / last

    def state(self) -> Rows:
        """Return the state as tensors: weights, moments, and the place on the schedule."""
        state = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        for k, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            state |= {f"{k}.first": first, f"{k}.second": second}
        return state | {"schedule": torch.tensor([self.taken, self.rate], dtype=torch.float64)}

    def restore(self, state: Rows) -> None:
        """Continue from a state."""
        _restore_weights(state, self.net)
        for k in range(len(self.parameters)):
            self.first[k].copy_(state[f"{k}.first"])
            self.second[k].copy_(state[f"{k}.second"])
        taken, self.rate = state["schedule"].tolist()
        self.taken = int(taken)
        for count in self.counts:
            count.fill_(taken)


def _restore_weights(state: Rows, net: nn.Module) -> None:
    net.load_state_dict({name[4:]: value for name, value in state.items() if name.startswith("net.")})


def transfer(surrogate: Model, attack: Attack | None = None, *, proposals: int = 1) -> BudgetAttack:
    """Turn an attack on one model into an attack on another.

    Args:
        surrogate: Model with a gradient: the twin from `distil`, the undefended network or another network.
        attack: `(model, x, y, threat, *, targeted, generator) -> x_adv`, options bound with `functools.partial`. None:
            40 steps of PGD on the margin. It should continue after the surrogate is fooled (`pgd` with `stop=False`):
            points at the surrogate's boundary seldom cross that of the model.
        proposals: Number of runs with other seeds; fooled samples are not attacked again, and the point with the
            largest margin of the model is returned.

    Returns:
        A budget attack. Cost: 1 forward of the model per proposal; the passes of `attack` are the surrogate's.

    References:
        Papernot et al., Practical black-box attacks against machine learning, AsiaCCS 2017, arXiv:1602.02697.
    """
    check_restarts(proposals)
    bound: Attack = partial(pgd, steps=40, loss=margin, stop=False) if attack is None else attack

    def run(
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        targeted: bool = False,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Tensor:
        x = check_attack(x, y, threat)
        check_mode(model)

        def propose(x: Tensor, y: Tensor, threat: Threat, source: torch.Generator | None) -> Tensor:
            return bound(surrogate, x, y, threat, targeted=targeted, generator=source, **options)

        return repeat(propose, proposals, model, x, y, threat, targeted=targeted, generator=generator)

    return run
