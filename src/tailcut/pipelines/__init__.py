"""Python before and after a model: stages in processes of their own, and the pipeline that leads requests through them.

Pure: `tensors`, `stage`, `plan`, `results`, `layout`, `protocol`, `life`. Shells: `loading` and `calling` (the user's
code), `child` and `forwarding` (a stage's process and its log), `process` and `pool` (the server's side of it),
`engine`, `steps`, `flow` and `model` (how a pipeline answers as a model does).
"""
