"""From a composed configuration to a case: the one place that interprets its values. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gqabench.attention_impls import AttentionProblem, InvalidCombination, InvalidProblem
from gqabench.conf import list_presets
from gqabench.harness.cases.arms import read_arms, require_known_impls, require_no_pairs
from gqabench.harness.cases.case import GENERATE_WORKLOAD, TRAIN_WORKLOAD, Case, InvalidCase, MeasureSettings
from gqabench.harness.cases.llama_plan import plan_llama, require_llama_values
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.devices import AUTO, resolve_device, resolve_dtype
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.workers.environments import read_environments
from gqabench.results.axes import AXES


def plan_case(
    config: DictConfig, hosts: Mapping[str, HostDescription], folder: Path = Path()
) -> Case | InvalidCase:
    """Return the case that a composed configuration describes.

    `hosts` holds the workers' descriptions of their hosts by environment, without those that did not start.
    Paths are relative to `folder`. Values that are valid, but not together, give an `InvalidCase`; a value
    that is never valid raises `UsageError`.
    """
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    require_counts(values)
    require_llama_values(values)
    arms = read_arms(values["impls"], read_environments(values["environments"], folder), folder)
    require_known_impls(arms, hosts)
    require_no_pairs(arms, values["workload"])
    of_arms = [hosts[name] for name in dict.fromkeys(arm.environment for arm in arms) if name in hosts]
    device = resolve_device(values["device"], *(of_arms or hosts.values()))
    dtype = resolve_dtype(values["dtype"], device)
    try:
        settings = MeasureSettings(**values["measure"])
    except ValueError as error:
        raise UsageError(str(error)) from error
    if values["workload"] not in list_presets("workload"):
        raise UsageError(
            f"workload={values['workload']}: must be one of {', '.join(list_presets('workload'))}"
        )
    shared = {"device": device.device if values["device"] == AUTO else values["device"], "dtype": dtype}
    try:
        problem = make_problem(values | shared)
        _require_phase(values["workload"], problem)
        llama = plan_llama(values, problem)
    except InvalidCombination as error:
        return InvalidCase(reason=str(error), arms=arms, fields=_asked_fields(values | shared, settings))
    except InvalidProblem as error:
        raise UsageError(str(error)) from error
    return Case(
        problem=problem,
        workload=values["workload"],
        model=values["model"],
        num_layers=values["num_layers"],
        tp=values["tp"],
        arms=arms,
        measure=settings,
        seed=values["seed"],
        llama=llama,
    )


def rank_heads(num_q_heads: int, num_kv_heads: int, tp: int) -> tuple[int, int]:
    """Return the query and key/value heads of one of `tp` tensor-parallel ranks.

    KV heads are divided while there are enough of them; with fewer than ranks, each rank keeps a copy of
    one (as vLLM and TensorRT-LLM serve such models). Raises `InvalidCombination`.
    """
    if num_q_heads % tp:
        raise InvalidCombination(f"tp={tp}: must divide num_q_heads={num_q_heads}")
    if num_kv_heads % tp and tp % num_kv_heads:
        raise InvalidCombination(
            f"tp={tp}: must divide num_kv_heads={num_kv_heads}, or be a multiple of it, to copy KV heads"
        )
    return num_q_heads // tp, max(num_kv_heads // tp, 1)


def make_problem(values: dict[str, Any]) -> AttentionProblem:
    """Return one rank's problem from a configuration's values, with device and dtype resolved.

    Raises `InvalidProblem` or `InvalidCombination`.
    """
    heads = {"num_q_heads": values["num_q_heads"], "num_kv_heads": values["num_kv_heads"]}
    names = {item.name for item in fields(AttentionProblem)}
    arguments = {key: value for key, value in values.items() if key in names}
    AttentionProblem(**arguments)  # the model's own heads must be valid before they are divided
    num_q_heads, num_kv_heads = rank_heads(**heads, tp=values["tp"])
    return AttentionProblem(**arguments | {"num_q_heads": num_q_heads, "num_kv_heads": num_kv_heads})


def require_counts(values: dict[str, Any]) -> None:
    """Raise `UsageError` for a size that is not a positive whole number, before sizes are combined."""
    for axis in AXES.values():
        value = values[axis.key]
        if axis.is_count and (axis.is_required if value is None else value < 1):
            shown = "null" if value is None else value
            or_null = "" if axis.is_required else " or null"
            raise UsageError(f"{axis.key}={shown}: must be a positive whole number{or_null}")
    if values["seed"] < 0:
        raise UsageError(f"seed={values['seed']}: must be 0 or more")


def _require_phase(workload: str, problem: AttentionProblem) -> None:
    """Raise `InvalidCombination` unless a workload named after a phase has that phase's lengths."""
    if workload == "decode" and problem.q_len != 1:
        raise InvalidCombination(
            f"q_len={problem.q_len}: workload=decode needs q_len=1; use workload=extend for more"
        )
    if workload == "prefill" and problem.q_len != problem.kv_len:
        raise InvalidCombination(
            f"q_len={problem.q_len}: workload=prefill needs q_len=kv_len={problem.kv_len};"
            " use workload=extend for fewer"
        )
    if workload == TRAIN_WORKLOAD:
        _require_training(problem)
    if workload == "extend" and not 1 < problem.q_len < problem.kv_len:
        raise InvalidCombination(
            f"q_len={problem.q_len}: workload=extend needs 1 < q_len < kv_len={problem.kv_len}"
        )


def _require_training(problem: AttentionProblem) -> None:
    """Raise `InvalidCombination` unless the problem has whole sequences and no cache, as in training."""
    if problem.q_len != problem.kv_len:
        raise InvalidCombination(f"q_len={problem.q_len}: workload=train needs q_len=kv_len={problem.kv_len}")
    for key in ("kv_dtype", "page_size"):
        if getattr(problem, key) is not None:
            raise InvalidCombination(
                f"{key}={getattr(problem, key)}: workload=train keeps no cache, so {key} must be null"
            )


def _asked_fields(values: dict[str, Any], settings: MeasureSettings) -> dict[str, Any]:
    """Return the record fields of a point that is not a valid problem, as they were asked for."""
    asked = {key: values[key] for key in (*AXES, "workload", "device", "seed")}
    if values["workload"] != GENERATE_WORKLOAD:
        asked["intermediate_size"] = None  # of the preset's model, which no other workload builds
    return {**asked, "phase": None, "group_size": None, "measure": settings.name}
