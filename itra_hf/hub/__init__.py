"""What strangers read: the model card, and pushes."""
