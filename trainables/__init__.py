"""Runs one trial: base model, data, ColossalAI training loop, memory."""
