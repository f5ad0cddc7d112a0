"""The names of files in a model repository."""

CONFIG_FILE = "config.pbtxt"
