"""Other programs: transformers, PEFT, the hub, DeepSpeed. Imported only when needed."""
