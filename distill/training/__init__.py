"""What GRPO and SFT share: packed rows, attention that never crosses traces, log-probabilities, updates."""
