"""A study of a cheap function, for tests."""

from __future__ import annotations

from hf_fsl.config.search import StudyConfig
from hf_fsl.search.study import Evaluation, identity, run_study
from tests.helpers.study_worker import quality, tiny_space


class Runner:
    """A study of a cheap function in a folder; notes what it runs."""

    def __init__(self, folder, **choices):
        self.folder, self.space, self.ran = folder, tiny_space(1, **choices), []
        self.function = self.evaluate

    def evaluate(self, architecture, context):
        self.ran.append(architecture)
        parameters = self.space.parameters(architecture)
        for rung in range(len(context.rungs)):
            context.token_flops += 1.0
            context.report(rung, {"loss": quality(architecture) + 1, "parameters": parameters})
        context.token_flops += 1.0
        context.seconds += 2.0
        return Evaluation(values={"loss": quality(architecture), "parameters": parameters}, details={"ok": True})

    def __call__(self, about=None, **options):
        settings = {"trials": 6, "rungs": [], "startup": 3, "heartbeat": 1, **options}
        about = about or identity(space=self.space.to_dict(), data="tiny", backbone="none")
        return run_study(
            self.space, self.function, StudyConfig(**settings), name="study", folder=self.folder, identity=about,
        )  # fmt: skip
