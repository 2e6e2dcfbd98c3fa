"""Room: distillation. Teachers beside a student, and the terms that compare them."""
