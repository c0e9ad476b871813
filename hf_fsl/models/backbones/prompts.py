"""The prompt that stands before every text of an encoder that was trained with one."""

from __future__ import annotations

import re
import warnings

from hf_fsl.models.backbones.classification import BackboneError
from hf_fsl.models.backbones.modules import EmbeddingModules

_E5 = re.compile(r"(^|[-_])e5([-_](?!.*instruct)|$)")
"""In a model's name. Its repositories name no prompts, though it was trained with "query: " and "passage: " (Wang et
al. 2022, arXiv:2212.03533); of the two its authors advise the first for classification."""


def settle_prompt(
    modules: EmbeddingModules, source: str, prompt: str | None = None, prompt_name: str | None = None
) -> None:
    """Makes the default prompt what was asked for, else the repository's own, else its prompt for classification.

    What nobody asked for is said, in a warning.

    Args:
        source: the repository or folder.
        prompt: the text, or its name; "" for none.
        prompt_name: of a prompt of the repository.

    Raises:
        BackboneError: both are given, or the repository names no such prompt.
    """
    names = list(modules.prompts)
    if prompt is not None and prompt_name is not None:
        raise BackboneError(f"prompt or prompt_name, not both; got {prompt!r} and {prompt_name!r}.")
    if prompt_name is not None and prompt_name not in names:
        known = f"names {', '.join(map(repr, names))}" if names else "names no prompts"
        raise BackboneError(f"prompt_name={prompt_name!r}: {source} {known}. Choose one, or give its text as prompt.")
    if prompt is not None or prompt_name is not None:
        modules.default_prompt = prompt if prompt is not None else prompt_name
        return
    if modules.default_prompt is None:
        modules.default_prompt = next((name for name in names if name.lower() == "classification"), None)
    if modules.default_prompt is not None:
        if text := modules.prompt(None):
            warnings.warn(
                f"{text!r} is put before every text, the prompt {modules.default_prompt!r} of {source}; prompt='' "
                "leaves it out.",
                stacklevel=3,
            )
    elif any(modules.prompts.values()):
        warnings.warn(
            f"{source} was trained with prompts ({', '.join(map(repr, names))}), none of them the default or for "
            "classification, so that texts are encoded without one. Choose by prompt_name=… or prompt=…; prompt='' "
            "for none.",
            stacklevel=3,
        )
    elif _E5.search(source.rstrip("/").rpartition("/")[2].lower()):
        warnings.warn(
            f"{source}: E5 models were trained with 'query: ' before every text, and this repository does not say so. "
            "Give prompt='query: ', or prompt='' for none.",
            stacklevel=3,
        )
