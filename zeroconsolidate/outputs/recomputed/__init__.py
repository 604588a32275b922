"""What a run with adapters has written -> whether it is right: computed a second time, in another way."""
