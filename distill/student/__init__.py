"""The student: fine-tuned on traces."""
