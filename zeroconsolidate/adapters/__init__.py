"""PEFT: adapters are found, written as PEFT would, or merged into the weights they belong to."""
