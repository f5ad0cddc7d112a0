"""Triton's model repositories: folders of models with a `config.pbtxt`, read as Triton reads them.

`config.py` reads the text, `folder.py` finds models, versions and files, `settings.py` translates a configuration and
lists the fields that differ, `ensemble.py` orders the steps of an ensemble and `chain.py` makes one model of them,
`library.py` opens the models, and `answer.py` builds a model's configuration for clients.
"""
