"""The teacher: trained by GRPO, and harvested by rejection sampling."""
