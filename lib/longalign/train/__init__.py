"""One Trainer with its runs, checkpoints, LoRA, proofs before and after, DeepSpeed and several processes."""
