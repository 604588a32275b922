"""A run directory -> its saves: what each is good for, where a training can resume, what can be removed."""
