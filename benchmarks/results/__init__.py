"""The table of distillation: every family's students, their competitors and the chains, made and scored (issue 6).

    plan (TOML) -> stages, a `compress` command each -> found by key or made -> scored per image -> intervals -> table

`python -m benchmarks.results --list` tells what there is to do and how long it takes.
"""
