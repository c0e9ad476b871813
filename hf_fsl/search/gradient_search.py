"""The shortest path of a search: one gradient pass names an adapter of every size, and some of them are trained."""

from __future__ import annotations

from hf_fsl.config import AdapterSearchConfig
from hf_fsl.search.errors import SearchError
from hf_fsl.search.space import Architecture, SearchSpace, with_even_steps
from hf_fsl.search.supernet import corner, gradient_pass, member_space, nested_seeds
from hf_fsl.search.trial import AdapterTrial


def gradient_family(
    config: AdapterSearchConfig, space: SearchSpace, trial: AdapterTrial
) -> tuple[list[Architecture], tuple[float, float]]:
    """Nested adapters, smallest first, each larger one with a rank more where it gains most for its parameters.

    They are read off the gradient of the frozen model's loss, as :func:`hf_fsl.search.supernet.nested_seeds` says: no
    validation example is looked at.

    Returns:
        The family within the space's constraints; token-FLOPs and seconds of the pass, on all processes.

    Raises:
        SearchError: no member meets the constraints.
    """
    held = member_space(space, config.supernet, only_lora=True)
    meter, processes = trial.meter.empty(), trial.accelerator.num_processes
    with meter.timed():
        gradients = gradient_pass(
            trial.model, trial.sites, trial.train, max(held.config.ranks),
            config.few_shot.per_device_train_batch_size, meter,
        )  # fmt: skip
    family = nested_seeds(gradients, held, corner(held, max))
    if not family:
        raise SearchError("No adapter that the gradient proposes meets the constraints of the space. Loosen them.")
    return [retrainable(member, space) for member in family], (meter.flops * processes, meter.seconds)


def retrainable(architecture: Architecture, space: SearchSpace) -> Architecture:
    """A supernet's member with the training choices of the space, which its own may not be among, for its size."""
    config = space.config
    choices = {name: getattr(config, name) for name in ("dropout", "learning_rate", "steps")}
    kept = {
        name: min(values, key=lambda value: abs(value - getattr(architecture, name)))
        for name, values in choices.items()
    }
    return with_even_steps(architecture.replace(**kept), space.sites, config.scaling)
