"""Other programs: transformers, PEFT, the hub. Imported only when needed."""
