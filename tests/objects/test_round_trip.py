"""What is written is what will be read, or the writer is told which part is not."""
