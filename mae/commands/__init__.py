"""Commands that are no stage of dvc.yaml, one file each."""
