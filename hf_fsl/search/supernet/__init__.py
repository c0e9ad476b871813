"""One adapter at the largest ranks, trained once; every slice of it is a member that can be used as it is."""

from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.search.supernet.evaluation import MemberEvaluator
from hf_fsl.search.supernet.gradients import gradient_pass, nested_seeds, seed_increments
from hf_fsl.search.supernet.nested import NestedSite, Supernet
from hf_fsl.search.supernet.prefix import PrefixCache
from hf_fsl.search.supernet.reorder import reorder
from hf_fsl.search.supernet.sandwich import corner, member_space
from hf_fsl.search.supernet.training import TrainedSupernet, train_supernet

__all__ = [
    "MemberEvaluator",
    "NestedSite",
    "PrefixCache",
    "Supernet",
    "SupernetConfig",
    "TrainedSupernet",
    "corner",
    "gradient_pass",
    "member_space",
    "nested_seeds",
    "reorder",
    "seed_increments",
    "train_supernet",
]
