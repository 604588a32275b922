"""ONE CHECKPOINT: from paths to one checkpoint to plan from: which tag, which roots, what stands in for lost files."""
