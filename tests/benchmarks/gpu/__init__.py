"""LoRA against full fine-tuning on a GPU, with a random model of a real size."""
