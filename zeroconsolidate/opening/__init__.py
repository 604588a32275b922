"""Opening: paths -> one checkpoint to plan from, with substitutes for lost files."""
