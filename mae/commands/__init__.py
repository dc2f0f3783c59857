"""Commands that are no stage of dvc.yaml, one file each: HELP, its arguments, and what it runs.

`mae --help` imports all of them, so they import what computes only where they run it.
"""

NAMES = ("check", "recipe", "embed", "export", "import", "sync", "rollback", "champion", "drift")
