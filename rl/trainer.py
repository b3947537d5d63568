"""The trainer: the optimizer step over a batch of rows, on DeepSpeed ZeRO 0 to 3 around a `Policy`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evolpo.model import DTYPES, load_model, load_tokenizer
from evolpo.model.balance import balance
from evolpo.model.experts import routers
from evolpo.model.kernel_check import check_kernels
from evolpo.model.lora import NAME, LoraConfig, adapters_off, add_adapters, load_adapter, save_adapter
from evolpo.model.names import save_model
from evolpo.model.shards import Do, at_once
from evolpo.rl.batching import MicroBatch, collate, make_micro_batches
from evolpo.rl.data import Batch, Row
from evolpo.rl.logprobs import ENTROPY_EVERY, Policy, check_supported
from evolpo.rl.losses import LossOptions, PolicyLoss
from evolpo.rl.totals import Totals
from evolpo.rl.training import optimizer_state
from evolpo.rl.training.config import TrainerConfig, learning_rate
from evolpo.rl.training.distributed import Ranks
from evolpo.rl.training.engine import build_engine, frozen_engine
from evolpo.rl.training.expert_parallel import balanced_routers
from evolpo.rl.training.offload import Away
from evolpo.rl.training.sharded import load_sharded
from evolpo.rl.training.weights import adapter_weights, named_weights

SAFEGUARDS_EVERY = 10
"""Optimizer steps from one look at the safeguard metrics of FP8 to the next; looking costs time."""
Seen = tuple[Sequence[int], Tensor, Tensor]
"""Rows of a micro-batch, their log-probabilities [B, T] under the policy that sampled, and log-ratios [B, T]."""
NO_ROW = Row(-1, (0,), (0,), (0,), 0.0, (0.0,))
"""Stands in where another rank has one micro-batch more: all ranks must meet in every backward pass."""


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


class Trainer(Ranks):
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
        lora: LoraConfig | None = None,
        adapter: Path | None = None,
        seed: int = 0,
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
            lora: train adapters alone: router biases and MTP layers stay too, and the reference policy is the model
                without them.
            adapter: folder of the adapters to go on from; None begins with the model itself.
            seed: of the first values of adapters.
        """
        super().__init__()
        self.config, self.options = config, options or LossOptions()
        self.total_updates, self.updates = total_updates, 0
        dtype = DTYPES[config.precision]
        load = load_sharded if config.zero_stage == 3 else load_model
        self.policy = Policy(load(model_path, dtype), temperature, mtp_weight=0.0 if lora else mtp_weight)
        self.tokenizer = load_tokenizer(model_path)
        self.base, self.lora = model_path, lora
        if lora is not None:
            add_adapters(self.policy.model, lora, seed)
            if adapter is not None:
                load_adapter(self.policy.model, adapter)
        if config.activation_checkpointing:
            self.policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.policy.train(bool(config.activation_checkpointing))  # eval mode: no dropout, so that ratios start at 1
        self.engine, self.optimizer = build_engine(self.policy, config, self.world)
        check_supported(self.policy)  # in the engine, whose hooks gather what is sharded
        if config.fp8:
            from evolpo.model.fp8.layers import use_fp8

            use_fp8(self.policy.model)
        self.away = Away()
        self.routers = [] if lora else balanced_routers(self.policy)
        self.device = self.engine.device
        check_kernels(self.policy.model.config, dtype, self.device, config.fp8)
        self.reference = self._load_reference(reference_path, temperature)

    def _load_reference(self, path: str | None, temperature: float) -> nn.Module | None:
        """The reference policy, in ZeRO stage 3 sharded like the one that is trained; None where none is needed."""
        if self.options.kl_coef == 0.0 or self.lora is not None:
            return None
        assert path is not None, "a KL penalty needs a reference policy"
        sharded, dtype = self.config.zero_stage == 3, DTYPES[self.config.precision]
        policy = Policy((load_sharded if sharded else load_model)(path, dtype), temperature)
        policy.eval().requires_grad_(False)
        return frozen_engine(policy, self.config) if sharded else policy.to(self.device)

    # -- one update ---------------------------------------------------------------------------------------------

    def update(self, batch: Batch, loss: PolicyLoss, optimizer_steps: int = 1) -> UpdateResult:
        """Train on this rank's rows of a batch, in `optimizer_steps` parts with one optimizer step each.

        Rows without advantage cost nothing (unless a KL penalty acts on them), but count in the denominators: the
        gradient is that of the whole batch. The policy that sampled is the current one, so the first part needs no
        forward pass for its old log-probabilities. With `trainer.offload=rollout` optimizer states are on the device
        for the update alone.
        """
        self.away.fetch()
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
        self.rest()
        return result

    def rest(self) -> None:
        """Until the next update, free sums of gradients; with `trainer.offload=rollout`, send optimizer states away."""
        away = self.config.offload == "rollout"
        states = optimizer_state.large_tensors(self.optimizer, self.config.zero_stage) if away else []
        sums = optimizer_state.empty_sums(self.optimizer)
        self.away.send(states, zeros=sums, keep=self.policy.parameters())

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
        seen: list[Seen] = []
        with self._weights_at_rest():
            for index in range(passes):
                if index < len(plan):
                    micro = collate(rows, plan[index], self.device)
                    with self._safeguards(totals, watched=index == 0):
                        seen.append(self._accumulate(micro, loss, denominator, old, totals))
                else:
                    none = collate([NO_ROW], [[0]], self.device)
                    self._reference_logprobs(none)  # under ZeRO stage 3 ranks meet in this pass too
                    logprobs, *_ = self.engine(none)
                    self.engine.backward(logprobs.sum() * 0.0, scale_wrt_gas=False)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.updates, self.total_updates, self.config)
        self.engine.step()
        for micro_rows, old_logprobs, log_ratios in seen:
            _store(result.old_logprobs, rows, micro_rows, old_logprobs)
            _store(result.log_ratios, rows, micro_rows, log_ratios)
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
        totals: Totals,
    ) -> Seen:
        """Add the gradient of a micro-batch; metrics stay on the device, which would have to be waited for."""
        reference = self._reference_logprobs(micro)
        logprobs, entropy, further = self.engine(micro, entropy_every=ENTROPY_EVERY)  # [B, T], [K]
        totals.add("entropy", entropy.mean(), len(entropy))
        old_logprobs = logprobs.detach()
        if micro.rows[0] in old:
            old_logprobs = micro.unflatten(torch.tensor([x for i in micro.rows for x in old[i]], device=self.device))
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
            totals.add_sum("loss/mtp", mtp.detach())
        # DeepSpeed averages gradients over ranks; the denominator is already that of all ranks.
        self.engine.backward(value * self.world, scale_wrt_gas=False)
        tokens = float(len(micro.targets))
        gap = (old_logprobs - micro.rollout_logprobs).abs() * micro.mask
        metrics |= {"logprob_gap/mean": gap.sum() / tokens, "logprob_gap/max": gap.max()}
        totals.add_sum("loss", value.detach())
        for name, scalar in metrics.items():
            totals.add(name, scalar, tokens)
        totals.add_sum("train/rows", len(micro.rows))
        totals.add_sum("train/tokens", tokens)
        totals.add_sum("train/computed_tokens", micro.input_ids.numel())
        return micro.rows, old_logprobs, logprobs.detach() - old_logprobs

    def _weights_at_rest(self) -> AbstractContextManager[None]:
        """The passes of one optimizer step: under FP8 each weight is quantised once for all of them.

        Not in ZeRO stage 3, where a weight is whole for the moment of its layer only.
        """
        if not self.config.fp8 or self.config.zero_stage == 3:
            return nullcontext()
        from evolpo.model.fp8.held import hold_weights

        return hold_weights()

    @torch.no_grad()
    def _reference_logprobs(self, micro: MicroBatch) -> Tensor | None:
        """[B, T] log-probabilities under the reference policy; None without a KL penalty."""
        if self.options.kl_coef == 0.0:
            return None
        logprobs: Tensor
        if self.reference is not None:
            logprobs, *_ = self.reference(micro)
        else:
            with adapters_off(self.policy.model):
                logprobs, *_ = self.engine.module(micro)
        return logprobs

    @contextmanager
    def _safeguards(self, totals: Totals, watched: bool) -> Iterator[None]:
        """Now and then, watch how well tensors survive FP8 in one micro-batch."""
        if not (self.config.fp8 and watched and self.updates % SAFEGUARDS_EVERY == 0):
            yield
            return
        from evolpo.model.fp8.safeguards import watch

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
        computed: list[tuple[Sequence[int], Tensor]] = []
        for index in range(int(self.max_over_ranks(len(plan)))):
            own = index < len(plan)
            micro = collate(rows, plan[index], self.device) if own else collate([NO_ROW], [[0]], self.device)
            logprobs, *_ = self.engine.module(micro)
            if own:
                computed.append((micro.rows, logprobs))
        for micro_rows, values in computed:
            _store(found, rows, micro_rows, values)
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
        yield from named_weights(self.policy.model, self.config.zero_stage)

    def adapter(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The adapters as full tensors on the CPU, and what PEFT's `adapter_config.json` says; every rank calls it."""
        settings: Any = self.policy.model.peft_config[NAME]
        tensors = adapter_weights(self.policy.model, self.config.zero_stage)
        targets = sorted(settings.target_modules)
        return tensors, {"r": settings.r, "lora_alpha": settings.lora_alpha, "target_modules": targets}

    def save_trained(self, folder: Path, do: Do | None = None) -> None:
        """Write what is trained: the adapters in PEFT's layout, or the model; every rank takes part, rank 0 writes.

        Args:
            folder: is there.
            do: is given what is to be written, copied to the host; None writes it now.
        """
        if self.lora is None:
            self.save_model(folder, do)
            return
        weights = adapter_weights(self.policy.model, self.config.zero_stage)
        if self.rank == 0:
            save_adapter(self.policy.model, folder, weights, self.base)

    def save_model(self, folder: Path, do: Do | None = None) -> None:
        """Write the model, adapters folded in, in Hugging Face layout; every rank takes part, rank 0 writes."""
        weights = self.named_weights()
        try:
            if self.rank == 0:  # the others hold nothing
                save_model(self.policy.model, folder, weights, do or at_once)
                self.tokenizer.save_pretrained(folder)
        finally:
            for _ in weights:
                pass  # ranks meet in every layer, whether or not the disk takes it

    def master_tensors(self) -> list[Tensor]:
        """This rank's fp32 weights, as the optimizer holds them."""
        masters = optimizer_state.master_tensors(self.optimizer, self.config.zero_stage)
        return [self.away.seen(master) for master in masters]

    def promised_bytes(self) -> int:
        """Bytes of the device that the trainer will hold beside an engine and does not hold yet: Adam's moments."""
        if self.config.offload != "none":
            return 0
        return optimizer_state.promised_bytes(self.optimizer, self.config.zero_stage)

    def save_optimizer(self, folder: Path, do: Do | None = None) -> None:
        """Write this rank's fp32 weights and Adam moments; those that all ranks have alike are written once.

        Args:
            folder: is there.
            do: is given what is to be written, copied to the host; None writes it now, without a copy on a CPU.
        """
        if optimizer_state.written_by(self.rank, self.config.zero_stage) == self.rank:
            stage = self.config.zero_stage
            optimizer_state.save(self.optimizer, stage, folder, self.rank, self.world, self.away.seen, do)

    def load_optimizer(self, folder: Path) -> None:
        """Read what `save_optimizer` wrote for this rank; the model itself must come from the same folder.

        Raises:
            InputError: the checkpoint was written by another number of ranks or another ZeRO stage.
        """
        optimizer_state.load(self.optimizer, self.config.zero_stage, folder, self.rank, self.world)


def _store(into: dict[int, list[float]], rows: Sequence[Row], micro_rows: Sequence[int], values: Tensor) -> None:
    for row, line in zip(micro_rows, values.tolist(), strict=True):
        into[row] = line[: len(rows[row].response_ids)]
