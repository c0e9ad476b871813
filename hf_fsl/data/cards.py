"""What the card of a data set (its README.md) says: licence and default configuration. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import yaml
from datasets.utils.metadata import MetadataConfigs

from hf_fsl.config.sections import DataConfig
from hf_fsl.data.errors import DataError, listed


def hub_card(path: str, revision: str | None) -> huggingface_hub.DatasetCardData | None:
    """The card of a Hub data set, from the copy in the cache that reading the data set has left there."""
    card = huggingface_hub.try_to_load_from_cache(path, "README.md", revision=revision, repo_type="dataset")
    return local_card(Path(card).parent) if isinstance(card, str) else None


def local_card(folder: Path) -> huggingface_hub.DatasetCardData | None:
    """The card of a folder in Hub layout."""
    try:
        return huggingface_hub.DatasetCard.load(folder / "README.md", ignore_metadata_errors=True).data
    except (OSError, ValueError, yaml.YAMLError):
        return None


def has_configurations(card: huggingface_hub.DatasetCardData | None) -> bool:
    """Whether the card says which files make which split."""
    return card is not None and bool(MetadataConfigs.from_dataset_card_data(card))


def card_license(card: huggingface_hub.DatasetCardData | None) -> str | None:
    """The licence, or several joined by commas."""
    found = card.get("license") if card is not None else None
    if isinstance(found, list):
        return ", ".join(map(str, found)) or None
    return str(found) if found else None


def default_configuration(config: DataConfig) -> str:
    """The configuration that a Hub data set has by default, found in the cache.

    Without the Hub ``datasets`` would take the configuration that was cached last, whichever that is.

    Raises:
        DataError: there are several and the card calls none of them the default.
    """
    card = hub_card(config.path, config.revision)
    if card is None or not has_configurations(card):
        return "default"
    configurations = MetadataConfigs.from_dataset_card_data(card)
    if len(configurations) == 1:
        return str(next(iter(configurations)))
    default = configurations.get_default_config_name()
    if default is None:
        raise DataError(
            f"data.name: {config.path} has the configurations {listed(list(configurations))}, none of them by "
            "default; name one."
        )
    return str(default)
