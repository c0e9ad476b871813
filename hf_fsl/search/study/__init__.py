"""The general path: a study of architectures that are trained one by one, by any number of workers.

Needs Optuna: ``pip install "hf_fsl[search]"``.
"""

from hf_fsl.core.errors import UserError

try:
    import optuna as _optuna  # noqa: F401
    import sqlalchemy as _sqlalchemy  # noqa: F401
except ImportError as error:
    raise UserError(
        f'hf_fsl.search.study needs {error.name}, which is not installed: pip install "hf_fsl[search]"'
    ) from error

from hf_fsl.search.study.engine import run_study, study_url
from hf_fsl.search.study.identity import StudyMismatch, fingerprint, identity
from hf_fsl.search.study.storage import StorageAway, open_storage
from hf_fsl.search.study.trials import Evaluation, Infeasible, TrialContext, TrialFunction, TrialStopped, Tried

__all__ = [
    "Evaluation",
    "Infeasible",
    "StorageAway",
    "StudyMismatch",
    "TrialContext",
    "TrialFunction",
    "TrialStopped",
    "Tried",
    "fingerprint",
    "identity",
    "open_storage",
    "run_study",
    "study_url",
]
