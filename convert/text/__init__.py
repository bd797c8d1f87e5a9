"""What a checkpoint's text is made by: the tokenizer and the small files beside it."""
