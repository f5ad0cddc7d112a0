"""Triton model repositories: folders of models with a `config.pbtxt`, read as Triton reads them.

`config.py` parses the text, `folder.py` finds models, versions and files, `settings.py` translates a configuration and
lists the fields that mean something else here, `ensemble.py` orders the steps of an ensemble, `chain.py` makes one
model of them, `library.py` opens the models, and `answer.py` builds the configuration that clients get.
"""
