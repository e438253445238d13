"""From conversations to what a head is trained on: the target's features, the tokens, and a mask of the assistant's."""
