"""The runner of the first version, shortened: it checked this folder."""
