"""The trainer: DeepSpeed ZeRO 0 to 3 around a `Policy`. The only file that imports deepspeed."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evolpo import InputError
from evolpo.model import DTYPES, load_model, load_tokenizer, resolve_precision
from evolpo.model.balance import balance
from evolpo.model.experts import routers
from evolpo.model.weights import published
from evolpo.rl import optimizer_state
from evolpo.rl.batching import MicroBatch, collate, make_micro_batches
from evolpo.rl.data import Batch, Row
from evolpo.rl.expert_parallel import balanced_routers, prepare, spread_layers, whole_experts
from evolpo.rl.logprobs import ENTROPY_EVERY, Policy, check_supported
from evolpo.rl.losses import LossOptions, PolicyLoss
from evolpo.rl.totals import Totals

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}
"""Learning rate after the warmup as a share of its peak; progress runs from 0 to 1."""

SAFEGUARDS_EVERY = 10
"""Optimizer steps from one look at the safeguard metrics of FP8 to the next; looking costs time."""
NO_ROW = Row(-1, (0,), (0,), (0,), 0.0, (0.0,))
"""Stands in where another rank has one micro-batch more: all ranks must meet in every backward pass."""


@dataclass
class TrainerConfig:
    """Optimisation, precision and memory."""

    zero_stage: int = 1
    """ZeRO stage: 0 replicates all, 1 shards the optimizer, 2 also gradients, 3 also weights."""
    precision: str = "auto"
    """bf16 (with fp32 master weights), fp32, or auto: bf16 where the hardware multiplies it fast, else fp32."""
    fp8: bool = False
    """Compute the products of linear layers, experts included, in FP8, forward and backward; emulated off Hopper."""
    learning_rate: float = 1e-6
    """Peak learning rate of AdamW."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises from zero."""
    schedule: str = "constant"
    """After the warmup: constant or cosine (to zero)."""
    weight_decay: float = 0.0
    """AdamW weight decay of matrices."""
    beta2: float = 0.95
    """AdamW second-moment decay; the first is 0.9."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    expert_parallel: int = 1
    """Ranks that the experts of a layer are spread over, by DeepSpeed's AutoEP; 1: every rank has them all."""
    expert_bias_rate: float = 1e-3
    """Step of the experts' biases that evens out their load, in a model with experts; 0 leaves them."""
    tokens_per_micro_batch: int = 2048
    """Most tokens in one forward and backward pass of a device; a prompt counts once for its responses."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    save_every: int = 10
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep; 0 keeps all."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        if self.zero_stage not in (0, 1, 2, 3):
            raise InputError(f"trainer.zero_stage: {self.zero_stage} is none of 0, 1, 2, 3")
        self.precision = resolve_precision(self.precision, "trainer.precision")
        if self.schedule not in SCHEDULES:
            raise InputError(f"trainer.schedule: {self.schedule!r} is none of {', '.join(SCHEDULES)}")
        for name in ("learning_rate", "max_grad_norm", "tokens_per_micro_batch", "save_every"):
            if getattr(self, name) <= 0:
                raise InputError(f"trainer.{name}: {getattr(self, name)} is not positive")
        if self.expert_parallel > 1 and (self.zero_stage not in (1, 2) or self.fp8):
            raise InputError("trainer.expert_parallel: above 1 it needs trainer.zero_stage 1 or 2 and fp8=false")
        if self.expert_parallel < 1:
            raise InputError(f"trainer.expert_parallel: {self.expert_parallel} is not positive")
        for name in ("warmup_steps", "weight_decay", "expert_bias_rate", "keep_checkpoints"):
            if getattr(self, name) < 0:
                raise InputError(f"trainer.{name}: {getattr(self, name)} is negative")


@dataclass
class UpdateResult:
    """What an update did."""

    metrics: dict[str, float]
    old_logprobs: dict[int, list[float]] = field(default_factory=dict)
    """By row of the batch: log-probabilities of its tokens under the policy that sampled, as the trainer sees it."""
    log_ratios: dict[int, list[float]] = field(default_factory=dict)
    """By row of the batch: log pi - log pi_old of its tokens when its gradient was taken."""
    skipped: int = 0
    """Optimizer steps that were left out because a gradient was not finite."""


def learning_rate(step: int, total: int, config: TrainerConfig) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    progress = (step - config.warmup_steps) / max(total - config.warmup_steps, 1)
    return config.learning_rate * SCHEDULES[config.schedule](min(progress, 1.0))


def init_distributed() -> tuple[int, int]:
    """Start torch.distributed from torchrun's environment, or alone; returns (rank, world size)."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if not torch.distributed.is_initialized():
        # Compiled on first use where it is compatible; gloo does the same without a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        deepspeed.init_distributed(backend, verbose=False, timeout=timedelta(minutes=30))
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def from_rank_0(value: str) -> str:
    """The value that rank 0 gives, on every rank."""
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def split_rows(rows: Sequence[Row], parts: int) -> list[list[int]]:
    """Split rows into `parts` lists of indices of nearly equal size, in order: a group stays whole where it can.

    With fewer groups than parts the rows themselves are dealt out.
    """
    groups = sorted({row.group for row in rows})
    if len(groups) < parts:
        return [list(range(part, len(rows), parts)) for part in range(parts)]
    place = {group: i * parts // len(groups) for i, group in enumerate(groups)}
    split: list[list[int]] = [[] for _ in range(parts)]
    for index, row in enumerate(rows):
        split[place[row.group]].append(index)
    return split


class Trainer:
    """One policy and its optimizer on all ranks."""

    def __init__(
        self,
        model_path: str,
        config: TrainerConfig,
        *,
        total_updates: int,
        temperature: float = 1.0,
        options: LossOptions | None = None,
        reference_path: str | None = None,
        mtp_weight: float = 0.0,
    ) -> None:
        """Load the model and build the DeepSpeed engine.

        Args:
            model_path: folder in Hugging Face layout, or hub name.
            config: optimisation, precision and memory.
            total_updates: optimizer steps of the whole run, for the learning-rate schedule.
            temperature: sampling temperature of the rollout.
            options: what to pass to the loss.
            reference_path: the reference policy of the KL penalty; loaded only if `options.kl_coef` is not 0.
            mtp_weight: weight of the loss of multi-token prediction, in a model that has it; 0 freezes those layers.
        """
        import deepspeed

        self.rank, self.world = init_distributed()
        self.config, self.options = config, options or LossOptions()
        self.total_updates, self.updates = total_updates, 0
        dtype = DTYPES[config.precision]
        self.policy = Policy(load_model(model_path, dtype), temperature, mtp_weight=mtp_weight)
        self.tokenizer = load_tokenizer(model_path)
        check_supported(self.policy)
        if config.fp8:
            from evolpo.model.fp8 import use_fp8

            use_fp8(self.policy.model)
        if config.zero_stage == 3 and routers(self.policy):
            from evolpo.model.ling import SparseMLP

            deepspeed.utils.set_z3_leaf_modules(self.policy, [SparseMLP])  # all experts at once, whichever are used
        if config.activation_checkpointing:
            self.policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.policy.train(config.activation_checkpointing)  # eval mode: no dropout, so that ratios start at 1
        self.reference = self._load_reference(reference_path, dtype, temperature)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=self.policy,
            model_parameters=self._parameter_groups(),
            optimizer=self._make_adam,
            config=self._deepspeed_config(),
        )
        # With bf16 and stage 0 DeepSpeed makes an empty step at start-up, which Adam's bias correction would count.
        getattr(self.optimizer, "optimizer", self.optimizer).state.clear()
        self.engine.clip_fp32_gradients = self._clip_fp32_gradients
        self.routers = balanced_routers(self.policy)
        self.device = self.engine.device
        if self.reference is not None:
            self.reference.to(self.device)

    def _load_reference(self, path: str | None, dtype: torch.dtype, temperature: float) -> Policy | None:
        if self.options.kl_coef == 0.0:
            return None
        assert path is not None, "a KL penalty needs a reference policy"
        return Policy(load_model(path, dtype), temperature).eval().requires_grad_(False)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        return [
            {
                "name": "matrices",
                "params": [p for p in parameters if p.dim() >= 2],
                "weight_decay": self.config.weight_decay,
            },
            {"name": "vectors", "params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]

    def _make_adam(self, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
        if self.config.expert_parallel > 1:
            from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

            groups = split_params_into_different_moe_groups_for_optimizer(groups)
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, self.config.beta2), fused=True)

    def _deepspeed_config(self) -> dict[str, Any]:
        spread = self.config.expert_parallel
        experts = {"expert_parallel": prepare(self.policy, spread, self.world)} if spread > 1 else {}
        return experts | {
            "train_micro_batch_size_per_gpu": 1,
            "managed_gradient_accumulation": False,  # micro-batches vary in number; step() is the boundary
            "gradient_clipping": self.config.max_grad_norm,
            "bf16": {"enabled": self.config.precision == "bf16"},
            "zero_optimization": {"stage": self.config.zero_stage, "overlap_comm": False},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 1 << 60,
        }

    def _clip_fp32_gradients(self) -> None:
        """Clip under fp32 and stage 0, where DeepSpeed's own method would drop the norm."""
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        if not norm.isfinite():  # what DeepSpeed does in every other stage: no gradient, no step
            for parameter in self.policy.parameters():
                parameter.grad = None
        self.engine._global_grad_norm = float(norm)

    # -- one update ---------------------------------------------------------------------------------------------

    def update(self, batch: Batch, loss: PolicyLoss, optimizer_steps: int = 1) -> UpdateResult:
        """Train on this rank's rows of a batch, in `optimizer_steps` parts with one optimizer step each.

        Rows without advantage cost nothing (unless a KL penalty acts on them), but count in the denominators: the
        gradient is that of the whole batch. The policy that sampled is the current one, so the first part needs no
        forward pass for its old log-probabilities.
        """
        result = UpdateResult({})
        parts = split_rows(batch.rows, optimizer_steps)
        old: dict[int, list[float]] = {}
        for part in parts[1:]:
            old |= self.logprobs(batch.rows, self._with_signal(batch.rows, part))
        totals = Totals()
        for part in parts:
            self._optimizer_step(batch.rows, part, loss, old, result, totals)
        result.metrics = totals.reduce()
        result.metrics["updates/skipped"] = float(result.skipped)
        result.metrics["lr"] = learning_rate(self.updates - 1, self.total_updates, self.config)
        return result

    def _with_signal(self, rows: Sequence[Row], part: Sequence[int]) -> list[int]:
        return [i for i in part if rows[i].advantage != 0.0 or self.options.kl_coef != 0.0]

    def _optimizer_step(
        self,
        rows: Sequence[Row],
        part: Sequence[int],
        loss: PolicyLoss,
        old: Mapping[int, list[float]],
        result: UpdateResult,
        totals: Totals,
    ) -> None:
        counted = len(part) if loss.reduction == "sequence_mean" else sum(len(rows[i].response_ids) for i in part)
        denominator = max(self.sum_over_ranks(counted), 1.0)
        wanted = self._with_signal(rows, part)
        plan = make_micro_batches(rows, wanted, self.config.tokens_per_micro_batch)
        passes = int(self.max_over_ranks(len(plan)))
        if passes == 0:
            return  # no group of any rank carries a signal
        for index in range(passes):
            if index < len(plan):
                micro = collate(rows, plan[index], self.device)
                with self._safeguards(totals, watched=index == 0):
                    self._accumulate(micro, loss, denominator, old, result, totals)
            else:
                logprobs, *_ = self.engine(collate([NO_ROW], [[0]], self.device))
                self.engine.backward(logprobs.sum() * 0.0, scale_wrt_gas=False)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.updates, self.total_updates, self.config)
        self.engine.step()
        self.updates += 1
        load = balance(self.routers, self.config.expert_bias_rate)
        if load is not None:
            for name, value in asdict(load).items():
                totals.add(f"experts/{name}", value, 1.0)
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        if math.isfinite(norm):
            totals.add("grad_norm", norm, 1.0)
        else:  # the optimizer has not moved
            result.skipped += 1

    def _accumulate(
        self,
        micro: MicroBatch,
        loss: PolicyLoss,
        denominator: float,
        old: Mapping[int, list[float]],
        result: UpdateResult,
        totals: Totals,
    ) -> None:
        logprobs, entropy, further = self.engine(micro, entropy_every=ENTROPY_EVERY)  # [B, T], [K]
        totals.add("entropy", float(entropy.mean()), len(entropy))
        old_logprobs = logprobs.detach()
        if micro.rows[0] in old:
            old_logprobs = micro.unflatten(torch.tensor([x for i in micro.rows for x in old[i]], device=self.device))
        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference, *_ = self.reference(micro)
        value, metrics = loss(
            logprobs,
            old_logprobs,
            micro.advantages,
            micro.mask,
            micro.units,
            self.options.clip_low,
            self.options.clip_high,
            denominator=denominator,
            ref_logprobs=reference,
            kl_coef=self.options.kl_coef,
            kl_estimator=self.options.kl_estimator,
            rollout_logprobs=micro.rollout_logprobs,
            correction=self.options.correction,
            correction_low=self.options.correction_low,
            correction_high=self.options.correction_high,
        )
        if further is not None:
            mtp = -further.sum() / denominator
            value = value + self.policy.mtp_weight * mtp
            totals.add_sum("loss/mtp", float(mtp.detach()))
        # DeepSpeed averages gradients over ranks; the denominator is already that of all ranks.
        self.engine.backward(value * self.world, scale_wrt_gas=False)
        gap = (old_logprobs - micro.rollout_logprobs).abs()[micro.mask]
        metrics |= {"logprob_gap/mean": gap.mean(), "logprob_gap/max": gap.max()}
        tokens = float(micro.mask.sum())
        totals.add_sum("loss", float(value.detach()))
        for name, scalar in metrics.items():
            totals.add(name, float(scalar), tokens)
        totals.add_sum("train/rows", len(micro.rows))
        totals.add_sum("train/tokens", tokens)
        totals.add_sum("train/computed_tokens", micro.input_ids.numel())
        _store(result.old_logprobs, micro, old_logprobs)
        _store(result.log_ratios, micro, logprobs.detach() - old_logprobs)

    @contextmanager
    def _safeguards(self, totals: Totals, watched: bool) -> Iterator[None]:
        """Now and then, watch how well tensors survive FP8 in one micro-batch."""
        if not (self.config.fp8 and watched and self.updates % SAFEGUARDS_EVERY == 0):
            yield
            return
        from evolpo.model.fp8 import watch

        with watch() as seen:
            yield
        for name, value in seen.by_layer().items():
            totals.add(f"fp8/{name}", value, 1.0)

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Row], wanted: Sequence[int] | None = None) -> dict[int, list[float]]:
        """Log-probabilities of the response tokens of this rank's rows, by index, under the current policy."""
        indices = range(len(rows)) if wanted is None else wanted
        plan = make_micro_batches(rows, list(indices), self.config.tokens_per_micro_batch)
        found: dict[int, list[float]] = {}
        for index in range(int(self.max_over_ranks(len(plan)))):
            own = index < len(plan)
            micro = collate(rows, plan[index], self.device) if own else collate([NO_ROW], [[0]], self.device)
            logprobs, *_ = self.engine.module(micro)
            if own:
                _store(found, micro, logprobs)
        return found

    @torch.no_grad()
    def routing(self, rows: Sequence[Row]) -> list[Tensor]:
        """For each row of T tokens, prompt and response, the experts chosen, [T, layers, k].

        Empty for a model without experts; every rank must call it.
        """
        found = routers(self.policy)  # those of MTP layers do not run without gradients
        if not found:
            return []
        chosen: list[Tensor] = []
        hooks = [router.register_forward_hook(lambda _, __, result: chosen.append(result[0].cpu())) for router in found]
        routes: list[Tensor] = []
        try:
            for index in range(int(self.max_over_ranks(len(rows)))):
                chosen.clear()
                self.engine.module(collate([rows[index] if index < len(rows) else NO_ROW], [[0]], self.device))
                if index < len(rows):
                    routes.append(torch.stack(chosen, dim=1))
        finally:
            for hook in hooks:
                hook.remove()
        return routes

    # -- weights and state --------------------------------------------------------------------------------------

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights as full tensors under the names of their checkpoints; every rank must run through it."""
        model = self.policy.model
        spread = spread_layers(model)
        for name, layer in spread.items():
            yield from whole_experts(layer, name)
        moved = tuple(f"{name}.{part}." for name in spread for part in ("router", "experts"))
        saved = model.state_dict(keep_vars=True)
        named = [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if name in saved)]
        named = [(name, tensor) for name, tensor in named if not name.startswith(moved)]
        if self.config.zero_stage < 3:
            for name, tensor in named:
                yield from published(name, tensor.data)
            return
        import deepspeed

        for start in range(0, len(named), 64):
            part = named[start : start + 64]
            with deepspeed.zero.GatheredParameters([t for _, t in part if isinstance(t, torch.nn.Parameter)]):
                for name, tensor in part:
                    yield from published(name, tensor.data)

    def save_model(self, folder: Path) -> None:
        """Write the model in Hugging Face layout; every rank takes part, rank 0 writes."""
        weights = {name: tensor.detach().cpu().clone() for name, tensor in self.named_weights()}
        if self.rank == 0:
            self.policy.model.save_pretrained(folder, state_dict=weights)
            self.tokenizer.save_pretrained(folder)

    def master_tensors(self) -> list[Tensor]:
        """This rank's fp32 weights, as the optimizer holds them."""
        return optimizer_state.master_tensors(self.optimizer, self.config.zero_stage)

    def save_optimizer(self, folder: Path) -> None:
        """Write this rank's fp32 weights and Adam moments."""
        optimizer_state.save(self.optimizer, self.config.zero_stage, folder, self.rank)

    def load_optimizer(self, folder: Path) -> None:
        """Read what `save_optimizer` wrote for this rank; the model itself must come from the same folder.

        Raises:
            InputError: the checkpoint was written by another number of ranks or another ZeRO stage.
        """
        optimizer_state.load(self.optimizer, self.config.zero_stage, folder, self.rank, self.world)

    def barrier(self) -> None:
        """Wait for all ranks."""
        torch.distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order of rank."""
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def sum_over_ranks(self, value: float) -> float:
        """Sum of a number over all ranks."""
        return _all_reduce(value, torch.distributed.ReduceOp.SUM, self.device)

    def max_over_ranks(self, value: float) -> float:
        """Largest of a number over all ranks."""
        return _all_reduce(value, torch.distributed.ReduceOp.MAX, self.device)


def _all_reduce(value: float, operation: Any, device: torch.device) -> float:
    tensor = torch.tensor([value], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor, operation)
    return float(tensor)


def _store(into: dict[int, list[float]], micro: MicroBatch, values: Tensor) -> None:
    for row, line, length in zip(micro.rows, values.tolist(), micro.mask.sum(dim=1).tolist(), strict=True):
        into[row] = line[:length]
