"""One trial against its floor: our loop, a bare PyTorch loop, and the Trainer."""
