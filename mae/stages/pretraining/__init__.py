"""Parts of the stages `tokenizer` and `pretrain`."""
