"""The models as transformers ships them: loading, one forward over our caches, the target, the tokenizer."""
