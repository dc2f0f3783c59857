"""Prefect flows: when and where the stages of dvc.yaml run."""

import mae as mae  # first: Ctrl-C while Prefect is imported prints no traceback
