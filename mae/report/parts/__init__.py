"""The parts of the report, one file each: results of the stages and params in, the template's values out.

A part gives None where there is nothing to show, as for a stage that params.yaml skips.
"""
