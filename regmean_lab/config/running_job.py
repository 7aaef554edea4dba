"""What Hydra knows of the job that runs."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig


def job_overrides() -> list[str]:
    """The overrides that the running job was asked for by; none where no job of Hydra's runs."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
