"""Python before and after a model: stages that run in their own processes, and the pipelines made of them.

Pure: `tensors`, `stage`, `plan`, `results`, `layout`, `protocol`, `life`. Shells: `loading` and `calling` (the user's
code), `child` and `forwarding` (a stage's process and its log), `process` and `pool` (the server's side of that
process), `engine`, `steps`, `flow` and `model` (how a pipeline answers as a model does).
"""
