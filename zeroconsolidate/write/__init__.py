"""MODEL DIR: files are staged, synced, checked and renamed; with them config, tokenizer, index and report."""
