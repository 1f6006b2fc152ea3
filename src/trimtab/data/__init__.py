"""Files to typed rows, rows to tokens: readers, chat templates, loss masks, batches and splits."""
